//! How vCPUs are made to come out, and what a test does at that moment.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use slat::ObserverId;

type Hook = Box<dyn FnMut(ObserverId) + Send>;

#[derive(Default)]
pub(crate) struct Kicks {
    flags: Mutex<Vec<(ObserverId, Arc<AtomicBool>)>>,
    hook: Mutex<Option<Hook>>,
}

impl Kicks {
    /// Lists a vCPU; returns its flag, which sticks.
    pub(crate) fn enlist(&self, id: ObserverId) -> Arc<AtomicBool> {
        let flag = Arc::new(AtomicBool::new(false));
        self.flags.lock().unwrap().push((id, Arc::clone(&flag)));
        flag
    }

    pub(crate) fn retire(&self, id: ObserverId) {
        self.flags.lock().unwrap().retain(|(listed, _)| *listed != id);
    }

    /// Says what happens at the next kick, once: in the middle of a change, when all is unmapped that is to
    /// go, and caches know it still.
    pub(crate) fn once(&self, hook: impl FnOnce() + Send + 'static) {
        let mut hook = Some(hook);
        let work: Hook = Box::new(move |_| {
            if let Some(hook) = hook.take() {
                hook();
            }
        });
        *self.hook.lock().unwrap() = Some(work);
    }

    pub(crate) fn kick(&self, id: ObserverId) {
        let hook = self.hook.lock().unwrap().take();
        if let Some(mut hook) = hook {
            hook(id);
        }
        for (listed, flag) in &*self.flags.lock().unwrap() {
            if *listed == id {
                flag.store(true, Ordering::SeqCst);
            }
        }
    }
}

impl fmt::Debug for Kicks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kicks").field("flags", &self.flags).finish_non_exhaustive()
    }
}
