use super::*;
use crate::mutant::Class;

const ROW: &str = "name = 'one'\nclass = 'ordering'\nkillers = ['map::a']\n";
const EDIT: &str = "[[mutant.edits]]\nfile = 'a'\nold = 'b'\nnew = 'c'\n";

fn read(texts: &[&str]) -> Result<List, ListError> {
    let chapters = texts.iter().map(|text| {
        let path = PathBuf::from("list.toml");
        Chapter::parse(text).map_err(|source| ListError::Toml { path, source })
    });
    List::bind(chapters.collect::<Result<_, _>>()?)
}

fn row(more: &str) -> String {
    format!("[[mutant]]\n{ROW}{more}\n{EDIT}")
}

#[test]
fn a_row_says_what_is_broken_and_who_must_notice() {
    let list = read(&[&row("")]).unwrap();
    let mutant = &list.mutants[0];
    assert_eq!((&*mutant.name, mutant.class), ("one", Class::Ordering));
    assert_eq!((mutant.edits.len(), mutant.killers.len()), (1, 1));
    assert_eq!((mutant.hangs, mutant.seconds, &mutant.survives), (false, 120, &None));
}

#[test]
fn shared_edits_come_before_the_rows_own() {
    let shared = "[shared.torn]\nfile = 'a'\nold = 'x'\nnew = 'b'\n";
    let list = read(&[&row("shared = ['torn']"), shared]).unwrap();
    let olds: Vec<_> = list.mutants[0].edits.iter().map(|edit| &*edit.old).collect();
    assert_eq!(olds, ["x", "b"]);
    let error = read(&[&row("shared = ['other']"), shared]).unwrap_err();
    assert!(matches!(error, ListError::NoShared { shared, .. } if shared == "other"));
    assert!(matches!(read(&[&row(""), shared, shared]), Err(ListError::TwoShared(_))));
}

#[test]
fn what_hides_a_mutant_is_taken_away_first_and_is_no_mutant_itself() {
    let shared = "[shared.fence]\nfile = 'a'\nold = 'x'\nnew = 'y'\n";
    let list = read(&[&row("hidden-by = ['fence']"), shared]).unwrap();
    let olds = |edits: &[Edit]| edits.iter().map(|edit| edit.old.clone()).collect::<Vec<_>>();
    assert_eq!(olds(&list.mutants[0].uncover), ["x"]);
    assert_eq!(olds(&list.mutants[0].edits), ["x", "b"]);
    let alone = format!("[[mutant]]\n{ROW}hidden-by = ['fence']\n");
    assert!(matches!(read(&[&alone, shared]), Err(ListError::NoEdit(_))));
}

#[test]
fn no_two_rows_have_one_name() {
    let error = read(&[&row(""), &row("")]).unwrap_err();
    assert!(matches!(error, ListError::TwoMutants(name) if name == "one"));
}

#[test]
fn a_row_breaks_something_and_names_who_notices() {
    let no_edit = format!("[[mutant]]\n{ROW}");
    assert!(matches!(read(&[&no_edit]), Err(ListError::NoEdit(_))));
    let no_killer = row("").replace("'map::a'", "");
    assert!(matches!(read(&[&no_killer]), Err(ListError::NoKiller(_))));
    assert!(matches!(read(&[""]), Err(ListError::Empty)));
}

#[test]
fn what_is_not_known_is_said_with_its_line() {
    for (text, said) in [
        (row("colour = 'red'"), "unknown field `colour`"),
        (row("").replace("ordering", "misordering"), "unknown variant `misordering`"),
        (row("").replace("map::a", "map"), "neither FILE::SCENARIO nor"),
        (row("").replace("name =", "name"), "TOML parse error at line 2"),
    ] {
        let Err(ListError::Toml { source, .. }) = read(&[&text]) else { panic!("{text}") };
        assert!(source.to_string().contains(said), "{source}");
    }
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let error = List::read(Path::new("nowhere")).unwrap_err();
    assert_eq!(error.to_string(), "nowhere cannot be read");
}
