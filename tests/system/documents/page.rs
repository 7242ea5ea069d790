//! A page in Markdown, as far as these tests need to understand it.

use std::path::Path;

/// A page, and where it is.
pub(super) struct Page {
    /// Relative to the project's folder.
    pub(super) path: String,
    text: String,
}

/// A table: its titles, and its rows.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) titles: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
    /// The heading above it.
    heading: String,
}

impl Page {
    pub(super) fn new(path: &str, text: String) -> Self {
        Self { path: path.to_owned(), text }
    }

    /// Lines outside of blocks of code.
    fn prose(&self) -> impl Iterator<Item = &str> {
        let mut in_code = false;
        self.text.lines().filter(move |line| {
            let is_fence = line.starts_with("```");
            in_code ^= is_fence;
            !in_code && !is_fence
        })
    }

    pub(super) fn tables(&self) -> Vec<Table> {
        let (mut tables, mut heading, mut in_table) = (Vec::<Table>::new(), String::new(), false);
        for line in self.prose() {
            if let Some(row) = line.strip_prefix('|') {
                let cells: Vec<_> =
                    row.trim_end_matches('|').split(" |").map(|cell| cell.trim().to_owned()).collect();
                if !in_table {
                    tables.push(Table { titles: cells, rows: Vec::new(), heading: heading.clone() });
                } else if !row.starts_with("---") {
                    tables.last_mut().unwrap().rows.push(cells);
                }
                in_table = true;
                continue;
            }
            in_table = false;
            if line.starts_with('#') {
                heading = line.trim_start_matches('#').trim().to_owned();
            }
        }
        tables
    }

    /// The tables whose heading begins like this.
    pub(super) fn tables_under(&self, heading: &str) -> Vec<Table> {
        self.tables().into_iter().filter(|table| table.heading.starts_with(heading)).collect()
    }

    /// The blocks of code in a language.
    pub(super) fn blocks(&self, language: &str) -> Vec<String> {
        let begin = format!("```{language}\n");
        let parts = self.text.split(&begin).skip(1);
        parts.map(|part| part.split("```").next().unwrap().to_owned()).collect()
    }

    fn anchors(&self) -> Vec<String> {
        let headings = self.prose().filter(|line| line.starts_with('#'));
        headings.map(|line| slug(line.trim_start_matches('#').trim())).collect()
    }

    fn links(&self) -> Vec<&str> {
        let prose = self.prose();
        prose.flat_map(|line| line.split("](").skip(1).filter_map(|rest| rest.split(')').next())).collect()
    }

    /// Links to files or headings that do not exist.
    pub(super) fn broken_links(&self, root: &Path, pages: &[Self]) -> Vec<String> {
        let folder = Path::new(&self.path).parent().unwrap();
        let mut broken = Vec::new();
        for link in self.links().into_iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { self.path.clone() } else { normal(&folder.join(file)) };
            let page = pages.iter().find(|page| page.path == target);
            let has_anchor = anchor.is_empty()
                || page.is_some_and(|page| page.anchors().iter().any(|other| other == anchor));
            if !root.join(&target).exists() || !has_anchor {
                broken.push(format!("{}: the link {link} leads nowhere", self.path));
            }
        }
        broken
    }

    /// Names of source and configuration files in the text.
    pub(super) fn file_names(&self) -> Vec<String> {
        let words =
            self.prose().flat_map(|line| line.split(|c: char| !(c.is_alphanumeric() || "/._-".contains(c))));
        let is_file = |word: &&str| {
            [".rs", ".yml", ".cfg", ".mjs", ".py"]
                .iter()
                .any(|end| word.ends_with(end) && word.len() > end.len())
        };
        words.filter(is_file).map(|word| word.trim_start_matches(['.', '/']).to_owned()).collect()
    }

    /// Lines that hold this text, code included.
    pub(super) fn lines_with<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a str> {
        self.text.lines().filter(move |line| line.contains(text))
    }
}

/// What the first pair of backticks of a cell holds, or the cell itself. Of a request with its body, the request.
pub(super) fn name(cell: &str) -> String {
    cell.split('`').nth(1).unwrap_or(cell).to_owned()
}

/// The anchor that GitHub makes of a heading.
fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// The path without `..`.
fn normal(path: &Path) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.iter().map(|part| part.to_str().unwrap()) {
        match part {
            ".." => drop(parts.pop()),
            "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[test]
fn a_page_is_understood() {
    let text = "# A page\n\n[a](b.md#c-d) [e](#a-page) [f](../x.rs)\n\n## C d!\n\n| variable | default |\n|---|---|\n\
                | `A` | 1 |\n\n```sql\nSELECT 1;\n```\n";
    let page = Page::new("docs/page.md", text.to_owned());
    let tables = page.tables_under("C d");
    assert_eq!(
        (&tables[0].titles[..], name(&tables[0].rows[0][0])),
        (&["variable".into(), "default".into()][..], "A".into())
    );
    assert_eq!(page.blocks("sql"), ["SELECT 1;\n"]);
    let broken =
        page.broken_links(Path::new("/nonexistent"), &[Page::new("docs/b.md", "# C d\n".to_owned())]);
    assert_eq!(broken.len(), 3, "{broken:?}");
    assert_eq!(
        (page.anchors(), normal(Path::new("docs/../x.rs"))),
        (vec!["a-page".into(), "c-d".into()], "x.rs".into())
    );
}
