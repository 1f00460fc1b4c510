//! The page-attribute table: AMD APM vol. 2, 7.8.

use super::*;

#[test]
fn the_register_after_reset_is_the_default() {
    assert_eq!(Pat::from_msr(0x0007_0406_0007_0406), Ok(Pat::POWER_ON));
}

#[test]
fn every_encoding_at_every_index_is_taken_or_refused() {
    for index in 0..8_u8 {
        for raw in 0..=u8::MAX {
            // All others hold UC-.
            let shift = 8 * u32::from(index);
            let msr = 0x0707_0707_0707_0707 & !(0xff << shift) | u64::from(raw) << shift;
            let mem_type = match raw {
                0 => Some(MemType::UC),
                1 => Some(MemType::WC),
                4 => Some(MemType::WT),
                5 => Some(MemType::WP),
                6 => Some(MemType::WB),
                7 => None,
                _ => {
                    assert_eq!(Pat::from_msr(msr), Err(BadPat { index, raw }));
                    continue;
                }
            };
            let pat = Pat::from_msr(msr).unwrap();
            for i in 0..=u8::MAX {
                assert_eq!(pat.get(i), mem_type.filter(|_| i == index));
            }
            for t in MemType::ALL {
                assert_eq!(pat.index_of(t), (mem_type == Some(t)).then_some(index));
            }
        }
    }
}

#[test]
fn the_lowest_index_wins() {
    let pat = Pat::from_msr(0x0606_0606_0606_0600).unwrap();
    assert_eq!((pat.index_of(MemType::UC), pat.index_of(MemType::WB)), (Some(0), Some(1)));
}

#[test]
fn the_first_bad_entry_is_the_one_that_is_named() {
    let bad = Pat::from_msr(0x0300_0000_0002_0006);
    assert_eq!(bad, Err(BadPat { index: 2, raw: 2 }));
}
