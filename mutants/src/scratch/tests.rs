use super::*;
use crate::list::List;

#[test]
fn every_mutant_is_made_and_undone() {
    let tree = Tree::of_the_workspace().unwrap();
    let list = List::read(&tree.root().join("mutants/list")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut scratch = Scratch::new(&tree, folder.path().to_owned()).unwrap();
    for mutant in &list.mutants {
        scratch.apply(&mutant.edits).unwrap();
        let changed = mutant.edits.iter().map(|edit| &edit.file);
        for file in changed.clone() {
            let there = fs::read_to_string(scratch.tree().join(file)).unwrap();
            assert_ne!(Some(there), tree.text(file), "{}", mutant.name);
        }
        scratch.restore().unwrap();
        for file in changed {
            let there = fs::read_to_string(scratch.tree().join(file)).unwrap();
            assert_eq!(Some(there), tree.text(file), "{}", mutant.name);
        }
    }
}

#[test]
fn two_runs_do_not_share_a_copy() {
    let tree = tempfile::tempdir().unwrap();
    let tree = Tree::at(tree.path()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let first = Scratch::new(&tree, folder.path().to_owned()).unwrap();
    let second = Scratch::new(&tree, folder.path().to_owned()).unwrap_err();
    assert!(second.is::<InUse>());
    drop(first);
    Scratch::new(&tree, folder.path().to_owned()).unwrap();
}
