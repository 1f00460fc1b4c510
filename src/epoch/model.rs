//! Notes, which run on whatever thread finds their grace periods over.

use loom::thread;

use super::*;

/// Whoever waits for the greater stamp would wait for ever if it were taken back: no note says it again.
#[test]
fn of_two_notes_that_run_at_a_time_the_greater_one_stays() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound.get_or_insert(2);
    model.max_branches = 50_000;
    model.check(|| {
        let epoch = Arc::new(Epoch::new());
        let [here, there] = [(); 2].map(|()| epoch.join());
        // Behind a pin that is one epoch old both wait for the same epoch.
        let pin = there.pin();
        here.pin().0.flush();
        epoch.retire(&here, 1);
        epoch.retire(&here, 2);
        drop(pin);
        here.pin().0.flush();
        assert!(!epoch.passed(1), "else there is nothing to run at a time");
        let other = thread::spawn(move || there.pin().0.flush());
        here.pin().0.flush();
        other.join().unwrap();
        epoch.advance(&here, 2);
        assert!(epoch.passed(2));
    });
}
