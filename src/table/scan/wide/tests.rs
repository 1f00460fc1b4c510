use super::*;
use crate::table::Table;

/// What is set, or taken, between the look at two slots and their exchange is neither lost nor taken twice.
#[test]
fn what_changes_behind_the_look_at_a_pair_is_taken_as_it_is() {
    let Some(wide) = Wide::detect() else {
        std::println!("skipped: pairs: this processor has no wide forms");
        return;
    };
    let (bit, other) = (1 << 9, 1 << 8);
    for now in [[bit, bit | other], [bit | other, bit], [0, bit], [bit, 0], [0, 0], [bit, bit]] {
        let table = Table::new();
        table.fill(|index| Entry::from_raw(now[index % 2]));
        let slots = table.slots(0, SLOTS);
        let taken = wide.take_seen(Pair::at(slots, 0), [bit, bit], Take::any(bit, 0));
        let had = now.map(|word| u64::from(word & bit != 0));
        assert_eq!(taken, had[0] | had[1] << 1, "{now:#x?}");
        assert_eq!([0, 1].map(|index| slots[index].load().raw()), now.map(|word| word & !bit));
    }
}
