//! Tables that were unlinked: who keeps them, and when they are freed.

use super::*;

#[test]
fn a_table_that_nobody_walks_is_freed_as_it_is_retired() {
    let rig = Rig::mapped();
    let free = rig.free();
    rig.unlink(0);
    assert_eq!(rig.free(), free + 1);
    assert_eq!(rig.stats().waiting, 0);
    assert!(rig.pin().lookup(Gpa::new(0)).is_none());
    assert!(rig.pin().lookup(Gpa::new(2 * MIB)).is_some());
}
