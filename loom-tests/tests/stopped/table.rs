//! What was found, as a table: steps by operations.

use comfy_table::{Table, presets};

use super::{
    Group,
    sweep::{Cell, Row},
};

/// Draws a line for each deed that stopped, with a column for each group of others.
pub(crate) fn draw(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    let columns: Vec<_> =
        Group::ALL.into_iter().filter(|group| rows[0].cells.contains_key(group)).collect();
    let mut header = vec!["stops in".to_owned(), "steps".to_owned()];
    header.extend(columns.iter().map(|group| format!("{group:?}")));
    table.set_header(header);
    for row in rows {
        let (least, most) = row.steps;
        let steps = if least == most { most.to_string() } else { format!("{least}-{most}") };
        let mut line = vec![row.name.to_owned(), steps];
        line.extend(columns.iter().map(|group| fact(&row.cells[group])));
        table.add_row(line);
    }
    table
}

/// Says how many steps another made at most, and how often it waited.
fn fact(cell: &Cell) -> String {
    let mut fact = format!("{}: at most {}", cell.stops, cell.most);
    for (what, waited) in &cell.waits {
        fact += &format!("; {} wait for {what}", waited.times);
    }
    fact
}
