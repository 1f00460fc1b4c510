//! What runs a guest, where there is KVM.

use clap::Parser;

use super::rig::with_host;
use crate::{kvm::Host, options::Options, processors};

#[test]
fn kvm_runs_what_it_can_and_software_what_else_there_is() {
    const KVM: bool = true;
    const SOFT: bool = false;
    with_host(|_| {
        for (arguments, expected) in [
            (&[][..], &[KVM, SOFT][..]),
            (&["--workload", "touch"], &[KVM]),
            (&["--trace", "-"], &[KVM]),
            (&["--format", "long-mode"], &[KVM, SOFT]),
            (&["--format", "npt"], &[SOFT]),
            (&["--levels", "5"], &[SOFT]),
            (&["--backend", "kvm"], &[KVM]),
            (&["--backend", "soft"], &[SOFT]),
            (&["--backend", "both", "--workload", "touch"], &[KVM, SOFT]),
        ] {
            let options = Options::try_parse_from([&["guest"], arguments].concat()).unwrap();
            let found = processors(&options).ok().expect("there is KVM");
            let found: Vec<_> = found.iter().map(Option::<Host>::is_some).collect();
            assert_eq!(found, expected, "{arguments:?}");
        }
    });
}
