use std::time::SystemTime;

use super::*;

/// Writes the files, and returns the tree of them.
fn tree(folder: &Path, files: &[(&str, &str)]) -> Tree {
    for (file, text) in files {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    Tree::at(folder).unwrap()
}

fn changed(path: &Path) -> SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

#[test]
fn a_copy_has_all_that_is_not_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let files = [(".gitignore", "/target\n"), ("src/a.rs", "a"), ("target/b", "b"), ("c", "c")];
    let tree = tree(&folder.path().join("tree"), &files);
    assert_eq!(tree.files(), [Path::new("c"), Path::new("src/a.rs")]);
    assert_eq!((tree.text("c").as_deref(), tree.text("target/b")), (Some("c"), None));
    let copy = folder.path().join("copy");
    tree.copy(&copy).unwrap();
    assert_eq!(fs::read_to_string(copy.join("src/a.rs")).unwrap(), "a");
    assert!(!copy.join("target").exists());
}

#[test]
fn a_copy_is_brought_up_to_date_and_what_is_equal_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (at, copy) = (folder.path().join("tree"), folder.path().join("copy"));
    tree(&at, &[("a", "a"), ("b", "b"), ("gone/c", "c")]).copy(&copy).unwrap();
    let before = changed(&copy.join("a"));
    fs::write(copy.join("b"), "as an interrupted run left it").unwrap();
    fs::remove_dir_all(at.join("gone")).unwrap();
    Tree::at(&at).unwrap().copy(&copy).unwrap();
    assert_eq!(changed(&copy.join("a")), before);
    assert_eq!(fs::read_to_string(copy.join("b")).unwrap(), "b");
    assert!(!copy.join("gone/c").exists());
}
