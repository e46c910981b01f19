//! One self-contained HTML page: a title, facts, text, tables and plots in the order in which they were added.
//! Must not know commands or devices; it loads nothing, runs no script, and follows the reader's light or dark setting.

use super::plot::STYLE;
use super::table::Table;

const PAGE_STYLE: &str = "
:root { color-scheme: light dark; --ink: #1d2129; --soft: #5b6472; --line: #d5dae1; --ground: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #9aa4b2; --line: #39414d; --ground: #14171c; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; } dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: 1rem 0; } caption { text-align: left; color: var(--soft); }
th, td { text-align: left; padding: .15rem .9rem .15rem 0; border-bottom: 1px solid var(--line); }
.n { text-align: right; font-variant-numeric: tabular-nums; }
svg { max-width: 100%; height: auto; }
";

/// A page that is being written.
#[derive(Clone, Debug, Default)]
pub struct Page {
    title: String,
    facts: Vec<(String, String)>,
    body: String,
}

impl Page {
    /// An empty page.
    pub fn new(title: &str) -> Self {
        Page { title: title.into(), ..Page::default() }
    }
    /// Adds a line to the facts under the title: model, data, device, date, the command that gives the same numbers.
    pub fn fact(&mut self, name: &str, value: &str) {
        self.facts.push((name.into(), value.into()));
    }
    /// Adds a heading.
    pub fn heading(&mut self, text: &str) {
        self.body += &format!("<h2>{}</h2>\n", escape(text));
    }
    /// Adds a paragraph.
    pub fn text(&mut self, text: &str) {
        self.body += &format!("<p>{}</p>\n", escape(text));
    }
    /// Adds a table.
    pub fn table(&mut self, table: &Table) {
        self.body += &table.html();
    }
    /// Adds a drawing: what `svg` of a plot or a heat map gave.
    pub fn figure(&mut self, svg: &str) {
        self.body += &format!("<figure>\n{svg}</figure>\n");
    }
    /// The page as a file holds it.
    pub fn html(&self) -> String {
        let title = escape(&self.title);
        let fact = |(name, value): &(String, String)| format!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(value));
        let facts: String = self.facts.iter().map(fact).collect();
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
             <style>{PAGE_STYLE}{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<dl>\n{facts}</dl>\n{}</body>\n</html>\n",
            self.body
        )
    }
}

/// `text` with the characters that mean something in HTML and SVG written as entities.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::plot::Plot;

    #[test]
    fn a_page_holds_what_was_added_in_order_and_loads_nothing() {
        let mut page = Page::new("a <title>");
        page.fact("data", "cifar10:\"d\"");
        page.heading("first");
        page.text("1 < 2");
        page.table(&Table::new("", &["k"]));
        page.figure(&Plot::new("second").line("l", &[(0.0, 1.0), (1.0, 2.0)]).svg());
        let html = page.html();
        let at = |text: &str| html.find(text).unwrap_or_else(|| panic!("no `{text}` in {html}"));
        assert!(at("<h1>a &lt;title&gt;") < at("cifar10:&quot;d&quot;") && at("first") < at("1 &lt; 2"));
        assert!(at("<table>") < at("<svg"));
        assert!(!html.contains("src=") && !html.contains("href=") && !html.contains("<script") && !html.contains("url("));
    }
}
