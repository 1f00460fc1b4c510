//! Each format, at both level counts, with differing capabilities.

use slat::{AnyFormat, Ept, EptCaps, Levels, LongMode, Npt, PhysWidth};

fn width(bits: u8) -> PhysWidth {
    PhysWidth::new(bits).unwrap()
}

/// Five levels with every capability, four with the usual ones.
pub(crate) fn ept(levels: Levels) -> Ept {
    let caps = if levels == Levels::Five { EptCaps::all() } else { EptCaps::USUAL };
    Ept::new(levels, width(46), caps)
}

/// EPT on a processor that keeps no accessed and dirty bits.
pub(crate) fn ept_without_bits(levels: Levels) -> Ept {
    Ept::new(levels, width(46), EptCaps::all().difference(EptCaps::ACCESSED_DIRTY))
}

/// Five levels with memory encryption, four without.
pub(crate) fn npt(levels: Levels) -> Npt {
    let plain = Npt::new(levels, width(43));
    if levels == Levels::Five { plain.with_encryption_bit(47).unwrap() } else { plain }
}

/// Four levels with memory encryption, five without and with all 52 bits.
pub(crate) fn long_mode(levels: Levels) -> LongMode {
    match levels {
        Levels::Five => LongMode::new(levels, PhysWidth::MAX),
        _ => LongMode::new(levels, width(40)).with_encryption_bit(51).unwrap(),
    }
}

pub(crate) fn any(format: impl Into<AnyFormat>) -> AnyFormat {
    format.into()
}

/// Runs each scenario, a generic function of a format, as a test in every format, directly and
/// through `AnyFormat`, with four levels and with five; with `#![and_without_bits]` also where the MMU
/// keeps no accessed and dirty bits.
macro_rules! every_format {
    (#![and_without_bits]
        $($(#[$meta:meta])* fn $claim:ident($format:ident: impl Format) $scenario:block)+
    ) => {$(
        mod $claim {
            use super::*;

            $(#[$meta])*
            fn scenario($format: impl slat::Format) $scenario

            $crate::common::every_format!(@all);
            $crate::common::every_format!(@test without_bits_4: ept_without_bits(Four));
            $crate::common::every_format!(@test without_bits_5: ept_without_bits(Five));
        }
    )+};
    ($($(#[$meta:meta])* fn $claim:ident($format:ident: impl Format) $scenario:block)+) => {$(
        mod $claim {
            use super::*;

            $(#[$meta])*
            fn scenario($format: impl slat::Format) $scenario

            $crate::common::every_format!(@all);
        }
    )+};
    (@all) => {
        $crate::common::every_format!(@test ept_4: ept(Four));
        $crate::common::every_format!(@test ept_5: ept(Five));
        $crate::common::every_format!(@test npt_4: npt(Four));
        $crate::common::every_format!(@test npt_5: npt(Five));
        $crate::common::every_format!(@test long_mode_4: long_mode(Four));
        $crate::common::every_format!(@test long_mode_5: long_mode(Five));
        $crate::common::every_format!(@any any_ept_4: ept(Four));
        $crate::common::every_format!(@any any_ept_5: ept(Five));
        $crate::common::every_format!(@any any_npt_4: npt(Four));
        $crate::common::every_format!(@any any_npt_5: npt(Five));
        $crate::common::every_format!(@any any_long_mode_4: long_mode(Four));
        $crate::common::every_format!(@any any_long_mode_5: long_mode(Five));
    };
    (@test $name:ident: $format:ident($levels:ident)) => {
        #[test]
        fn $name() {
            scenario($crate::common::$format(slat::Levels::$levels));
        }
    };
    (@any $name:ident: $format:ident($levels:ident)) => {
        #[test]
        fn $name() {
            scenario($crate::common::any($crate::common::$format(slat::Levels::$levels)));
        }
    };
}
pub(crate) use every_format;
