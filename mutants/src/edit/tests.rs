use super::*;

fn edit(old: &str, new: &str) -> Edit {
    Edit { file: "a.rs".to_owned(), old: old.to_owned(), new: new.to_owned() }
}

#[test]
fn what_stands_once_is_replaced() {
    assert_eq!(edit("b", "x").apply("a b c").unwrap(), "a x c");
    assert_eq!(edit("b ", "").apply("a b c").unwrap(), "a  c");
}

#[test]
fn it_does_not_matter_how_lines_are_broken() {
    let edited = edit("if one {\n    two\n}", "three").apply("    if one {\n        two\n    }\n");
    assert_eq!(edited.unwrap(), "    three\n");
    assert_eq!(edit("one two", "three").apply("one\n    two").unwrap(), "three");
}

#[test]
fn no_letter_has_a_meaning_of_its_own() {
    assert_eq!(edit("a.b(c)", "$0").apply("axb(c) a.b(c)").unwrap(), "axb(c) $0");
}

#[test]
fn what_stands_nowhere_or_twice_is_not_replaced() {
    for (text, times) in [("a", 0), ("b b", 2)] {
        let wrong = EditError::Times { file: "a.rs".to_owned(), times, old: "b".to_owned() };
        assert_eq!(edit("b", "x").apply(text), Err(wrong));
    }
}

#[test]
fn an_edit_must_change_something() {
    assert_eq!(edit(" \n", "x").apply("a"), Err(EditError::Empty { file: "a.rs".to_owned() }));
    assert!(matches!(edit("a", "a").apply("a"), Err(EditError::Nothing { .. })));
}

#[test]
fn later_edits_find_what_earlier_ones_left() {
    let edits = [edit("one", "two WHICH"), edit("WHICH", "three")];
    let read = |file: &str| (file == "a.rs").then(|| "one".to_owned());
    assert_eq!(apply_all(&edits, read).unwrap()["a.rs"], "two three");
}

#[test]
fn a_file_must_be_there() {
    let missing = EditError::NoFile { file: "a.rs".to_owned() };
    assert_eq!(apply_all(&[edit("one", "two")], |_| None), Err(missing));
}
