//! The picture of a precopy as SVG.

use svg::{
    Document,
    node::element::{Group, Rectangle, Text, Title},
};

use slat::Heat;

/// Units of a cell, of what surrounds a chart, and of what stands before a row.
const CELL: (usize, usize) = (10, 14);
const MARGIN: usize = 20;
const LABEL: usize = 120;

/// One precopy: what it is called, and its rounds, each with what stands before it.
pub(crate) struct Chart<'c> {
    pub(crate) title: String,
    pub(crate) rows: Vec<(String, &'c Heat)>,
}

/// Draws charts, one below the other.
pub(crate) fn draw(charts: &[Chart<'_>]) -> String {
    let columns = charts.iter().flat_map(|chart| &chart.rows);
    let columns = columns.map(|(_, row)| row.cells().len()).max().unwrap_or(0);
    let width = 2 * MARGIN + LABEL + columns * CELL.0;
    let mut document = Document::new().set("font-family", "sans-serif").set("font-size", 11);
    let mut top = MARGIN;
    for chart in charts {
        document =
            document.add(group(chart).set("transform", format!("translate({MARGIN} {top})")));
        top += (chart.rows.len() + 2) * CELL.1;
    }
    let (width, height) = (width, top + MARGIN);
    let document = document.set("viewBox", (0, 0, width, height));
    document.set("width", width).set("height", height).to_string()
}

fn group(chart: &Chart<'_>) -> Group {
    let title = Text::new(&*chart.title).set("font-weight", "bold").set("y", CELL.1 - 4);
    let rows = (1..).zip(&chart.rows);
    rows.fold(Group::new().add(title), |group, (line, (label, row))| {
        let top = line * CELL.1;
        let label = Text::new(label).set("y", top + CELL.1 - 4);
        let cells = row.cells().enumerate().map(|(column, cell)| {
            let title = Title::new(format!("{:.0} %", 100.0 * cell.share()));
            Rectangle::new()
                .set("x", LABEL + column * CELL.0)
                .set("y", top)
                .set("width", CELL.0)
                .set("height", CELL.1)
                .set("fill", colour(cell.share()))
                .add(title)
        });
        cells.fold(group.add(label), Group::add)
    })
}

/// Returns the colour of a share: from near white to dark red.
fn colour(share: f64) -> String {
    let mix = |from: f64, to: f64| (from + (to - from) * share) as u8;
    // A single dirty page of many must not look like none.
    let [red, green, blue] = match share {
        0.0 => [244, 244, 244],
        _ => [mix(255.0, 128.0), mix(220.0, 0.0), mix(160.0, 38.0)],
    };
    format!("#{red:02x}{green:02x}{blue:02x}")
}
