use super::*;
use crate::{list::List, tree::Tree};

fn list() -> List {
    let tree = Tree::of_the_workspace().unwrap();
    List::read(&tree.root().join("mutants/list")).unwrap()
}

fn names(list: &List, count: usize, commit: &str) -> Vec<String> {
    let picked = pick(list.mutants.iter().collect(), count, commit);
    picked.iter().map(|mutant| mutant.name.clone()).collect()
}

#[test]
fn a_sample_follows_from_the_commit() {
    let list = list();
    let one = names(&list, 10, "one");
    assert_eq!(one.len(), 10);
    assert_eq!(one, names(&list, 10, "one"));
    assert_ne!(one, names(&list, 10, "two"));
}

#[test]
fn a_greater_sample_has_what_a_smaller_one_has_in_the_lists_order() {
    let list = list();
    let more = names(&list, 20, "one");
    assert!(names(&list, 10, "one").iter().all(|name| more.contains(name)));
    let all = names(&list, usize::MAX, "one");
    assert_eq!(all.len(), list.mutants.len());
    assert_eq!(names(&list, all.len(), "one"), all);
    let order: Vec<_> = all.into_iter().filter(|name| more.contains(name)).collect();
    assert_eq!(order, more);
}
