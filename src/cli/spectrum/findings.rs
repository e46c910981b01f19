//! What a study of spectra gives, and where it goes: tables on stdout, JSON, CSV, and one page with plots.
//! Must not know what was studied.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::cli::output::{self, Json};
use crate::error::{Error, Result};
use crate::report::{Page, Table};

/// Where results go beside stdout.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Results")]
pub struct ResultArgs {
    /// JSON to a file; bare: JSON on stdout and the report on stderr
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
    /// The main table as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Tables and plots as one HTML page, which needs nothing else
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl ResultArgs {
    /// Finds out now whether the files can be written later.
    ///
    /// # Errors
    /// Where one cannot, or two are the same.
    pub fn prepare(&self) -> Result<Sinks> {
        let json = Json::prepare(self.json.as_ref())?;
        let files = [("--csv", &self.csv), ("--html", &self.html)];
        let mut taken: Vec<&PathBuf> = if let Json::File(path) = &json { vec![path] } else { Vec::new() };
        for (option, path) in files.into_iter().filter_map(|(o, p)| p.as_ref().map(|p| (o, p))) {
            output::writable(path)?;
            if taken.contains(&path) {
                return Err(Error::usage(format!("`{option}` names `{}`, which another result takes", path.display())));
            }
            taken.push(path);
        }
        Ok(Sinks { json, csv: self.csv.clone(), html: self.html.clone() })
    }
}

/// Files that can be written.
pub struct Sinks {
    json: Json,
    csv: Option<PathBuf>,
    html: Option<PathBuf>,
}

/// One study: facts, tables (the first is the main one), drawings, and everything as JSON.
pub struct Findings {
    /// Schema of the JSON object, such as `petard.psd/1`.
    pub schema: &'static str,
    /// One line.
    pub title: String,
    /// Model, data, device and what else decides the numbers.
    pub facts: Vec<(String, String)>,
    /// What was found in single numbers: key in JSON, name for people, value as people read it, value.
    pub numbers: Vec<(&'static str, &'static str, String, Value)>,
    /// Tables for people, and as columns in JSON.
    pub tables: Vec<Table>,
    /// `svg` elements.
    pub figures: Vec<String>,
    /// The command that gives the same numbers.
    pub repeat: String,
}

impl Findings {
    /// Writes everything that was asked for; files first.
    ///
    /// # Errors
    /// [`Error::Io`] where something cannot be written.
    pub fn write(&self, sinks: &Sinks) -> Result<()> {
        if let (Some(path), Some(table)) = (&sinks.csv, self.tables.first()) {
            output::write_file(path, &table.csv())?;
        }
        if let Some(path) = &sinks.html {
            output::write_file(path, &self.page())?;
        }
        sinks.json.write(&self.text(), || self.json())
    }

    fn text(&self) -> String {
        let named = self.facts.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        let numbers = self.numbers.iter().map(|(_, n, v, _)| (*n, v.as_str()));
        let lines: Vec<(&str, &str)> = named.chain(numbers).chain([("repeat", self.repeat.as_str())]).collect();
        let width = lines.iter().map(|l| l.0.len()).max().unwrap_or(0) + 2;
        let mut text = format!("{}\n", self.title);
        lines.iter().for_each(|(name, value)| text += &format!("{name:width$}{value}\n"));
        for table in &self.tables {
            let caption = if table.caption.is_empty() { String::new() } else { format!("{}\n", table.caption) };
            text += &format!("\n{caption}{}", table.text());
        }
        text
    }

    fn page(&self) -> String {
        let mut page = Page::new(&self.title);
        self.facts.iter().for_each(|(name, value)| page.fact(name, value));
        self.numbers.iter().for_each(|(_, name, value, _)| page.fact(name, value));
        page.fact("repeat", &self.repeat);
        self.figures.iter().for_each(|svg| page.figure(svg));
        self.tables.iter().for_each(|table| page.table(table));
        page.html()
    }

    fn json(&self) -> String {
        let number = |text: &String| text.parse::<f64>().map_or_else(|_| json!(text), |v| json!(v));
        let table = |t: &Table| {
            let column = |c: usize| Value::from(t.rows.iter().map(|r| number(&r[c])).collect::<Vec<_>>());
            let columns: Map<String, Value> = t.columns.iter().enumerate().map(|(c, n)| (n.clone(), column(c))).collect();
            json!({ "caption": t.caption, "columns": columns })
        };
        let mut keys = Map::new();
        keys.insert("schema".into(), json!(self.schema));
        keys.extend(self.facts.iter().map(|(n, v)| (n.replace(' ', "_"), json!(v))));
        keys.extend(self.numbers.iter().map(|(k, _, _, v)| ((*k).to_string(), v.clone())));
        keys.insert("tables".into(), Value::from(self.tables.iter().map(table).collect::<Vec<_>>()));
        keys.insert("command".into(), json!(self.repeat));
        keys.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
        format!("{:#}\n", Value::Object(keys))
    }
}
