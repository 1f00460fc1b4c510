use alloc::string::{String, ToString};

use super::*;
use crate::addr::Gpa;

/// A range that begins at no word, cell or table.
const FIRST: u64 = 0x8_0003;

fn heat(pages: u64, set: impl IntoIterator<Item = u64>, cells: usize) -> Heat {
    let mut bitmap = Bitmap::new(GpaRange::between(FIRST, FIRST + pages));
    for page in set {
        bitmap.set(Gpa::of_page(FIRST + page)).unwrap();
    }
    Heat::new(&bitmap, NonZero::new(cells).unwrap())
}

fn counts(heat: &Heat) -> Vec<u64> {
    heat.cells().map(|cell| cell.count).collect()
}

#[test]
fn a_cell_says_how_much_of_its_part_is_there() {
    let heat = heat(10, [0, 4, 5, 6, 7, 9], 3);
    assert_eq!(counts(&heat), [1, 4, 1]);
    let parts = heat.cells().map(|cell| cell.range);
    let ends = [(0, 4), (4, 8), (8, 10)];
    assert!(parts.eq(ends.map(|(first, end)| GpaRange::between(FIRST + first, FIRST + end))));
    assert!(heat.cells().map(|cell| cell.share()).eq([0.25, 1.0, 0.5]), "the last is a short one");
    assert_eq!(heat.to_string(), ":@=");
}

#[test]
fn there_are_no_more_cells_than_asked_for_and_than_pages() {
    for (pages, cells, there) in
        [(1, 1, 1), (1, 64, 1), (10, 10, 10), (10, 4, 4), (10, 6, 5), (10, usize::MAX, 10)]
    {
        let heat = heat(pages, 0..pages, cells);
        assert_eq!(heat.cells().len(), there, "{pages} pages, {cells} cells");
        assert_eq!(heat.to_string(), "@".repeat(there));
        assert_eq!(heat.range().pages(), heat.cells().map(|cell| cell.range.pages()).sum::<u64>());
    }
}

#[test]
fn cells_count_each_page_once_wherever_runs_begin_and_end() {
    let is_set = |page: &u64| page % 7 < 4 || (200..500).contains(page);
    for cells in 1..=70 {
        let heat = heat(1000, (0..1000).filter(is_set), cells);
        for cell in heat.cells() {
            let pages = cell.range.first_page() - FIRST..cell.range.end_page() - FIRST;
            assert_eq!(cell.count, pages.filter(is_set).count() as u64, "{cell:?} of {cells}");
        }
    }
}

#[test]
fn one_page_of_many_is_not_none_and_all_but_one_are_not_all() {
    // More than an `f32` could tell apart.
    let pages = (1 << 25) + 7;
    let text = |bitmap: &Bitmap| Heat::new(bitmap, NonZero::<usize>::MIN).to_string();
    let range = GpaRange::between(FIRST, FIRST + pages);
    let mut bitmap = Bitmap::new(range);
    assert_eq!(text(&bitmap), " ");
    bitmap.set(Gpa::of_page(FIRST + 77)).unwrap();
    assert_eq!(text(&bitmap), ".");
    let mut bitmap = Bitmap::new(range);
    bitmap.set_range(GpaRange::between(FIRST + 1, FIRST + pages)).unwrap();
    assert_eq!(text(&bitmap), "%");
    bitmap.set(range.start()).unwrap();
    assert_eq!(text(&bitmap), "@");
}

#[test]
fn shades_are_ten() {
    let all = (0..10).map(|ninths| heat(9, 0..ninths, 1).to_string()).collect::<String>();
    assert_eq!(all, " .:-=+*#%@");
}

#[test]
fn a_terminal_has_colours_and_gets_its_own_back() {
    let heat = heat(2, [1], 2);
    assert_eq!(heat.in_colour().to_string(), "\x1b[48;5;16m \x1b[48;5;226m \x1b[0m");
}

#[cfg(feature = "serde")]
#[test]
fn a_heat_map_is_json() {
    let json = r#"{"range":{"start":"0x80003000","last":"0x8000cfff","pages":10},"cell_pages":4,"counts":[1,4,1]}"#;
    assert_eq!(serde_json::to_string(&heat(10, [0, 4, 5, 6, 7, 9], 3)).unwrap(), json);
}
