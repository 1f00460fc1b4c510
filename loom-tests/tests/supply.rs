//! Pages that another thread supplies: who finds one supplied, who waits for it, and who is told that it
//! does not come.

use loom_tests::{Arc, Page, explore, frame, thread};
use slat::{
    Answer, Backing, BackingError, PageSize, Prot, Supplied, Supplier, SupplierGone, SupplyError,
    SupplyFailed, Want,
};

const WANT: Want = Want::new(0, PageSize::Size4K, Prot::R);
const CONTENT: u64 = 42;

/// A backing of two pages, and what is in the frame of the first one.
struct Memory {
    backing: Supplied,
    content: Page,
}

impl Memory {
    fn new() -> (Arc<Self>, Supplier) {
        let (backing, supplier) = Supplied::new(frame(1), 2).unwrap();
        (Arc::new(Self { backing, content: Page::new() }), supplier)
    }

    /// Fills the page and says so.
    fn supply(&self, supplier: &Supplier) {
        self.content.write(CONTENT);
        supplier.supply(0).unwrap();
    }

    /// Reads the page as a guest does; returns whether it is there.
    fn read(&self) -> bool {
        match self.backing.frame(&WANT) {
            Answer::Frame(found, _) => {
                assert_eq!((found, self.content.read()), (frame(1), CONTENT));
                true
            }
            Answer::Wait => false,
            other => panic!("{other:?}"),
        }
    }

    /// Reads the page as a fault does that waits for it; returns why it does not come.
    fn fetch(&self) -> Result<(), Missing> {
        self.backing.fetch(&WANT).map_err(|error| Missing::of(&error))?;
        assert!(self.read());
        Ok(())
    }
}

/// Why a page does not come.
#[derive(Debug, PartialEq)]
enum Missing {
    Failed,
    Gone,
}

impl Missing {
    fn of(error: &BackingError) -> Self {
        if let Some(failed) = error.get().downcast_ref::<SupplyFailed>() {
            assert_eq!(failed.error.get().to_string(), "lost");
            return Self::Failed;
        }
        assert!(error.get().is::<SupplierGone>(), "{error}");
        Self::Gone
    }
}

#[test]
fn who_finds_a_page_supplied_finds_its_content() {
    explore(3, || {
        let (memory, supplier) = Memory::new();
        let source = Arc::clone(&memory);
        let source = thread::spawn(move || source.supply(&supplier));
        let found = memory.read();
        source.join().unwrap();
        assert!(memory.read());
        found
    })
    .are(&[true, false]);
}

/// Whether it is asked for depends on who comes first.
#[test]
fn who_waits_for_a_page_gets_it_when_it_comes_unasked() {
    explore(3, || {
        let (memory, supplier) = Memory::new();
        let waiter = Arc::clone(&memory);
        let waiter = thread::spawn(move || waiter.fetch());
        let asked = supplier.try_request().is_some();
        memory.supply(&supplier);
        assert_eq!(waiter.join().unwrap(), Ok(()));
        assert_eq!(supplier.try_request(), None);
        asked
    })
    .are(&[true, false]);
}

#[test]
fn a_page_that_two_wait_for_is_asked_for_once() {
    explore(2, || {
        let (memory, supplier) = Memory::new();
        let waiters = [(); 2].map(|()| {
            let memory = Arc::clone(&memory);
            thread::spawn(move || memory.fetch())
        });
        let request = supplier.next_request().unwrap();
        assert_eq!((request.page, request.frame), (0, frame(1)));
        // Whether or not the other has come meanwhile.
        assert_eq!(supplier.try_request(), None);
        memory.supply(&supplier);
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), Ok(()));
        }
        assert_eq!(supplier.try_request(), None);
    })
    .are(&[()]);
}

/// The second one waits as well, or asks again, and nobody is left to answer.
#[test]
fn who_waits_for_a_page_is_told_that_it_failed_or_that_its_supplier_went() {
    explore(2, || {
        let (memory, supplier) = Memory::new();
        let waiters = [(); 2].map(|()| {
            let memory = Arc::clone(&memory);
            thread::spawn(move || memory.fetch().unwrap_err())
        });
        assert_eq!(supplier.next_request().unwrap().page, 0);
        supplier.fail(0, BackingError::new("lost")).unwrap();
        drop(supplier);
        let missing = waiters.map(|waiter| waiter.join().unwrap());
        assert!(missing.contains(&Missing::Failed));
        missing.contains(&Missing::Gone)
    })
    .are(&[true, false]);
}

#[test]
fn of_two_who_supply_a_page_one_does() {
    explore(3, || {
        let (memory, supplier) = Memory::new();
        let supplier = Arc::new(supplier);
        let other = Arc::clone(&supplier);
        let other = thread::spawn(move || other.supply_range(0..2));
        let supplied = [supplier.supply(0), other.join().unwrap()];
        let again = Err(SupplyError::AlreadySupplied { page: 0 });
        assert!(supplied.contains(&again) && supplied.contains(&Ok(())), "{supplied:?}");
        // All of the range, or none.
        assert_eq!(memory.backing.is_supplied(1), supplied[1].is_ok());
        supplied[0].is_ok()
    })
    .are(&[true, false]);
}

#[test]
fn a_supplier_that_waits_learns_that_nobody_is_left() {
    explore(3, || {
        let (memory, supplier) = Memory::new();
        let other = thread::spawn(move || supplier.next_request());
        drop(memory);
        assert_eq!(other.join().unwrap(), None);
    })
    .are(&[()]);
}
