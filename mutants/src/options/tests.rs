use super::*;
use crate::tree::Tree;

fn parse(words: &[&str]) -> Result<Options, clap::Error> {
    Options::try_parse_from(["mutants"].iter().chain(words))
}

/// Returns how many mutants the words choose, of how many.
fn chosen(words: &[&str]) -> anyhow::Result<(usize, usize)> {
    let tree = Tree::of_the_workspace()?;
    let list = List::read(&tree.root().join("mutants/list"))?;
    let count = parse(words)?.choose(&list, tree.root())?.len();
    Ok((count, list.mutants.len()))
}

#[test]
fn without_a_word_all_are_chosen() {
    let (count, all) = chosen(&[]).unwrap();
    assert_eq!(count, all);
}

#[test]
fn a_word_chooses_by_name_and_a_class_among_those() {
    assert_eq!(chosen(&["publish does not release", "load does not acquire"]).unwrap().0, 2);
    assert_eq!(chosen(&["release", "--class", "ordering", "--sample", "2"]).unwrap().0, 2);
    assert!(chosen(&["--class", "ordering"]).unwrap().0 > 20);
}

#[test]
fn what_chooses_nothing_is_refused() {
    let error = |words| chosen(words).unwrap_err().downcast::<NothingChosen>().unwrap();
    assert_eq!(error(&["publish", "xyzzy"]), NothingChosen::Word("xyzzy".to_owned()));
    assert_eq!(error(&["publish does not", "--class", "torn-exchange"]), NothingChosen::Class);
}

#[test]
fn what_cannot_be_is_refused() {
    for words in [
        ["--jobs", "0"],
        ["--sample", "0"],
        ["--sample", "many"],
        ["--class", "colour"],
        ["--list", "--check"],
    ] {
        assert!(parse(&words).is_err(), "{words:?}");
    }
}
