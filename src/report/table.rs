//! A table that prints as aligned text, as CSV and as HTML.
//! Must not know what its cells mean.

use super::page::escape;

/// Rows of cells under named columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// What the table shows; may be empty.
    pub caption: String,
    /// Names of the columns, with units.
    pub columns: Vec<String>,
    /// As many cells a row as there are columns.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(caption: &str, columns: &[&str]) -> Self {
        Table { caption: caption.into(), columns: columns.iter().map(ToString::to_string).collect(), rows: Vec::new() }
    }

    /// Adds a row. Panics where it has not a cell for each column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().collect();
        assert_eq!(cells.len(), self.columns.len(), "a row of {cells:?} under {:?}", self.columns);
        self.rows.push(cells);
    }

    /// The table for a terminal: columns as wide as their widest cell, numbers to the right, two spaces between.
    pub fn text(&self) -> String {
        let width = |c: usize| self.lines().map(|cells| cells[c].chars().count()).max().unwrap_or(0);
        let columns: Vec<(usize, bool)> = (0..self.columns.len()).map(|c| (width(c), self.numeric(c))).collect();
        let line = |cells: &Vec<String>| {
            let padded = cells.iter().zip(&columns).map(
                |(cell, &(width, right))| {
                    if right { format!("{cell:>width$}") } else { format!("{cell:width$}") }
                },
            );
            padded.collect::<Vec<_>>().join("  ").trim_end().to_string() + "\n"
        };
        self.lines().map(line).collect()
    }

    /// The table as RFC 4180 has it, with a line of column names.
    pub fn csv(&self) -> String {
        let cell = |text: &String| {
            let plain = !text.contains([',', '"', '\n', '\r']);
            if plain { text.clone() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
        };
        self.lines().map(|cells| cells.iter().map(cell).collect::<Vec<_>>().join(",") + "\n").collect()
    }

    /// The table as an element of a page.
    pub fn html(&self) -> String {
        let caption =
            if self.caption.is_empty() { String::new() } else { format!("<caption>{}</caption>", escape(&self.caption)) };
        let row = |cells: &Vec<String>, tag: &str| {
            let cell = |(c, text): (usize, &String)| {
                let class = if self.numeric(c) { " class=\"n\"" } else { "" };
                format!("<{tag}{class}>{}</{tag}>", escape(text))
            };
            format!("<tr>{}</tr>\n", cells.iter().enumerate().map(cell).collect::<String>())
        };
        let body: String = self.rows.iter().map(|cells| row(cells, "td")).collect();
        format!("<table>{caption}\n<thead>{}</thead>\n<tbody>\n{body}</tbody></table>\n", row(&self.columns, "th").trim_end())
    }

    fn lines(&self) -> impl Iterator<Item = &Vec<String>> {
        std::iter::once(&self.columns).chain(&self.rows)
    }

    /// Whether every cell below the name is a number, with a unit or a percent sign or not, or empty.
    fn numeric(&self, column: usize) -> bool {
        let number = |text: &str| {
            let first = text.split_whitespace().next().unwrap_or("0");
            first.trim_end_matches('%').parse::<f64>().is_ok()
        };
        self.rows.iter().all(|cells| number(&cells[column]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new("<rings>", &["ring", "name"]);
        table.row(["1".into(), "a, \"b\"".into()]);
        table.row(["10".into(), "c & d".into()]);
        table
    }

    #[test]
    fn text_is_aligned_by_kind() {
        assert_eq!(table().text(), "ring  name\n   1  a, \"b\"\n  10  c & d\n");
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        assert_eq!(table().csv(), "ring,name\n1,\"a, \"\"b\"\"\"\n10,c & d\n");
    }

    #[test]
    fn html_escapes() {
        let html = table().html();
        assert!(html.contains("<caption>&lt;rings&gt;</caption>") && html.contains("<td>c &amp; d</td>"), "{html}");
        assert!(html.contains("<td class=\"n\">10</td>"), "{html}");
    }

    #[test]
    #[should_panic(expected = "a row of")]
    fn a_row_has_a_cell_a_column() {
        table().row(["1".into()]);
    }
}
