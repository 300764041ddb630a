//! Tables for people: columns as wide as their widest cell.

use crate::output::Paint;

/// A table under construction.
#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// A cell: its text, and how it is painted.
#[derive(Debug)]
pub(crate) struct Cell {
    text: String,
    paint: fn(Paint, &str) -> String,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self {
            text: text.into(),
            paint: |_, text| text.to_owned(),
        }
    }
}

impl Cell {
    /// A painted cell.
    pub(crate) fn painted(text: impl Into<String>, paint: fn(Paint, &str) -> String) -> Self {
        Self {
            text: text.into(),
            paint,
        }
    }
}

impl Table {
    /// A table with these column heads.
    pub(crate) fn new(head: &[&'static str]) -> Self {
        Self {
            head: head.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row with a cell for each column.
    pub(crate) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        debug_assert_eq!(N, self.head.len(), "each column has its cell");
        self.rows.push(cells.into());
    }

    /// Adds a row whose cells are counted only when it runs.
    pub(crate) fn cells(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.head.len(), "each column has its cell");
        self.rows.push(cells);
    }

    /// Whether it has no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table, two blanks between columns, a line break at the end of each line and no blanks before it.
    pub(crate) fn render(&self, paint: Paint) -> String {
        let widths: Vec<usize> = self
            .head
            .iter()
            .enumerate()
            .map(|(column, head)| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells
                    .map(|cell| cell.text.chars().count())
                    .chain([head.len()])
                    .max()
                    .unwrap_or_default()
            })
            .collect();
        let line = |cells: Vec<(&str, String)>| {
            let mut line = String::new();
            let last = cells
                .iter()
                .rposition(|(text, _)| !text.is_empty())
                .map_or(0, |last| last + 1);
            for (index, (text, painted)) in cells.into_iter().take(last).enumerate() {
                line.push_str(&painted);
                if index + 1 < last {
                    let width = widths.get(index).copied().unwrap_or_default();
                    line.push_str(&" ".repeat(width - text.chars().count() + 2));
                }
            }
            line.push('\n');
            line
        };
        let mut text = line(self.head.iter().map(|head| (*head, paint.dim(head))).collect());
        for row in &self.rows {
            text.push_str(&line(
                row.iter()
                    .map(|c| (c.text.as_str(), (c.paint)(paint, &c.text)))
                    .collect(),
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", "N"]);
        table.row(["a".into(), "1".into()]);
        table.row(["longer".into(), "".into()]);
        assert_eq!(table.render(Paint::stdout()), "NAME    N\na       1\nlonger\n");
    }
}
