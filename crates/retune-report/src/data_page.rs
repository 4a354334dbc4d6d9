//! The page about data: what is wrong with it, its columns, classes and lengths, its copies and some of its rows. One HTML
//! file of the same make as the report of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use retune_data::{ColumnProfile, Distribution, Finding, RowProfile, Severity, TableProfile};

use crate::ReportError;
use crate::charts::distribution;
use crate::format::{Escaped, base64, count, number, percent, shortened};
use crate::page::{Section, document, figure, put};

/// Findings of one severity shown at once; the rest unfolds.
const SHOWN_FINDINGS: usize = 12;
/// Clusters of copies shown at once; the rest unfolds.
const SHOWN_CLUSTERS: usize = 6;
/// Clusters that are written at all.
const MOST_CLUSTERS: usize = 60;
/// Rows of a cluster that are written.
const CLUSTER_ROWS: usize = 8;
/// Classes counted at once; the rest unfolds.
const SHOWN_CLASSES: usize = 16;
/// Classes of which rows are shown.
const CLASSES_WITH_ROWS: usize = 24;
/// Longest text shown of a row, in characters.
const LONGEST: usize = 300;

/// What the page is about.
#[derive(Debug, Clone, Default)]
pub struct DataPage<'a> {
    /// What was looked at: the file's or the recipe's name.
    pub name: &'a str,
    /// Retune's version.
    pub version: &'a str,
    /// What is wrong, odd or worth knowing.
    pub findings: &'a [Finding],
    /// The files; those that cannot be read are left out.
    pub files: &'a [DataFile<'a>],
    /// Rows that say the same thing.
    pub clusters: &'a [CopyCluster],
    /// Small JPEG files of pictures, by the pictures' paths.
    pub thumbnails: BTreeMap<PathBuf, Vec<u8>>,
}

/// A file of the page.
#[derive(Debug, Clone)]
pub struct DataFile<'a> {
    /// What it is: a split's name, or the file's own.
    pub name: String,
    /// What it holds.
    pub profile: &'a TableProfile,
}

/// Rows that say the same thing.
#[derive(Debug, Clone)]
pub struct CopyCluster {
    /// The rows, what is copied first.
    pub rows: Vec<CopyRow>,
    /// How similar they are at least, up to 1.
    pub similarity: f64,
    /// Whether all have the same label.
    pub same_label: bool,
    /// Whether they stand in several files.
    pub across: bool,
}

/// A row of a cluster.
#[derive(Debug, Clone)]
pub struct CopyRow {
    /// File and line.
    pub place: String,
    /// What it says: the text, or the picture's name.
    pub content: String,
    /// Its label.
    pub label: String,
    /// Its picture's file.
    pub picture: Option<PathBuf>,
}

impl DataPage<'_> {
    /// The pictures that the page shows: give their thumbnails.
    pub fn pictures(&self) -> BTreeSet<PathBuf> {
        let mut paths = BTreeSet::new();
        for file in self.files {
            let classes = file.profile.classes.iter().take(CLASSES_WITH_ROWS);
            let rows = classes.flat_map(|class| &class.examples).chain(&file.profile.examples);
            paths.extend(rows.filter_map(|row| row.picture.clone()));
        }
        let clusters = self.clusters.iter().take(MOST_CLUSTERS);
        let rows = clusters.flat_map(|cluster| cluster.rows.iter().take(CLUSTER_ROWS));
        paths.extend(rows.filter_map(|row| row.picture.clone()));
        if self.is_pictures() {
            let found = self.findings.iter().filter(|finding| finding.severity != Severity::Info);
            paths.extend(found.map(|finding| finding.file.clone()));
        }
        paths
    }

    fn is_pictures(&self) -> bool {
        self.files.iter().any(|file| file.profile.pictures.is_some())
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// Writes the page: one file that needs no network and no script.
///
/// # Errors
/// When it cannot be written.
pub fn write_data_page(page: &DataPage<'_>, path: &Path) -> Result<(), ReportError> {
    let html = render(page);
    retune_checkpoint::write_atomic(path, |file| file.write_all(html.as_bytes()))?;
    Ok(())
}

fn render(page: &DataPage<'_>) -> String {
    let sections = vec![
        findings(page),
        pictures(page),
        columns(page),
        classes(page),
        lengths(page),
        copies(page),
        rows(page),
    ];
    document(&format!("{} · Retune data", page.name), &head(page), sections, page.version)
}

/// `1 error`, `2 errors`.
fn counted(number: usize, noun: &str) -> String {
    format!("{} {noun}{}", count(number as u64), if number == 1 { "" } else { "s" })
}

fn head(page: &DataPage<'_>) -> String {
    let mut head = String::new();
    put(&mut head, format_args!("<p class=\"run\"><strong>{}</strong>", Escaped(page.name)));
    for file in page.files {
        let noun = if file.profile.pictures.is_some() { "picture" } else { "row" };
        let name = if page.files.len() > 1 { format!("{} ", file.name) } else { String::new() };
        put(&mut head, format_args!(" · {}{}", Escaped(&name), counted(file.profile.rows, noun)));
    }
    let (errors, warnings) = (page.count(Severity::Error), page.count(Severity::Warning));
    let (sentence, class) = match (errors, warnings) {
        (0, 0) => ("Nothing is wrong with this data that can be seen without a model.".to_owned(), " above"),
        (0, _) => {
            (format!("A fit would take this data; {} to look at first.", counted(warnings, "warning")), "")
        }
        _ => (format!("A fit would refuse this data: {}.", counted(errors, "error")), " below"),
    };
    put(&mut head, format_args!("</p>\n<h1>{}</h1>\n", Escaped(&sentence)));
    let across = page.clusters.iter().filter(|cluster| cluster.across).count();
    let mut facts = vec![
        counted(errors, "error"),
        counted(warnings, "warning"),
        counted(page.count(Severity::Info), "remark"),
        counted(page.clusters.len(), "group") + " of rows that say the same",
    ];
    if across > 0 {
        facts.push(format!("{} of them across files", count(across as u64)));
    }
    put(&mut head, format_args!("<p class=\"conclusion{class}\">{}</p>\n", Escaped(&facts.join(", "))));
    head
}

fn findings(page: &DataPage<'_>) -> Section {
    let mut html = String::new();
    for (severity, title, class) in [
        (Severity::Error, "Errors", "error"),
        (Severity::Warning, "Warnings", "warning"),
        (Severity::Info, "Worth knowing", "info"),
    ] {
        let found: Vec<&Finding> =
            page.findings.iter().filter(|finding| finding.severity == severity).collect();
        if found.is_empty() {
            continue;
        }
        put(&mut html, format_args!("<h3>{title}</h3>\n"));
        folded(&mut html, &found, SHOWN_FINDINGS, |html, found| {
            put(html, format_args!("<ul class=\"findings\">\n"));
            found.iter().for_each(|finding| item(html, finding, class));
            html.push_str("</ul>\n");
        });
    }
    Section { id: "findings", title: "Findings", html }
}

fn item(html: &mut String, finding: &Finding, class: &str) {
    let mut place = finding.file.display().to_string();
    if let Some(line) = finding.line {
        place.push_str(&format!(":{line}"));
    }
    if let Some(column) = &finding.column {
        place.push_str(&format!(", column {column}"));
    }
    put(html, format_args!("<li class=\"{class}\"><p>{}</p>", Escaped(&finding.message)));
    if let Some(suggestion) = &finding.suggestion {
        put(html, format_args!("<p class=\"fix\">{}</p>", Escaped(suggestion)));
    }
    put(
        html,
        format_args!(
            "<p class=\"place\"><code>{}</code>{}</p></li>\n",
            Escaped(finding.code),
            Escaped(&place)
        ),
    );
}

/// The first of some things, and the rest behind a fold.
fn folded<T>(html: &mut String, things: &[T], shown: usize, write: impl Fn(&mut String, &[T])) {
    let (first, rest) = things.split_at(things.len().min(shown));
    write(html, first);
    if !rest.is_empty() {
        put(html, format_args!("<details class=\"more\"><summary>{} more</summary><div>\n", rest.len()));
        write(html, rest);
        html.push_str("</div></details>\n");
    }
}

/// A heading with the file's name where there are several.
fn file_heading(html: &mut String, page: &DataPage<'_>, file: &DataFile<'_>) {
    if page.files.len() > 1 {
        put(html, format_args!("<h3>{}</h3>\n", Escaped(&file.name)));
    }
}

fn columns(page: &DataPage<'_>) -> Section {
    let mut html = String::new();
    for file in page.files {
        file_heading(&mut html, page, file);
        html.push_str("<div class=\"scroll\" tabindex=\"0\"><table>\n<thead><tr><th scope=\"col\">Column</th><th scope=\"col\">For</th><th scope=\"col\">Kind</th><th scope=\"col\">Empty</th><th scope=\"col\" class=\"n\">Different</th><th scope=\"col\">Such as</th></tr></thead>\n<tbody>\n");
        for column in &file.profile.columns {
            column_row(&mut html, column, file.profile.rows);
        }
        html.push_str("</tbody></table></div>\n");
    }
    Section { id: "columns", title: "Columns", html }
}

fn column_row(html: &mut String, column: &ColumnProfile, rows: usize) {
    let role = column.role.map_or("", |role| role.name());
    let share = column.missing as f64 / rows.max(1) as f64;
    let examples = match column.range {
        Some((low, high)) => format!("{} to {}", number(low), number(high)),
        None => column.examples.iter().map(|text| format!("“{text}”")).collect::<Vec<_>>().join(", "),
    };
    put(
        html,
        format_args!(
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td style=\"white-space:nowrap\"><span class=\"meter\" aria-hidden=\"true\"><i style=\"width:{:.1}%\"></i></span>{}</td><td class=\"n\">{}</td><td>{}</td></tr>\n",
            Escaped(&column.name),
            role,
            column.kind.name(),
            100.0 * share,
            if column.missing == 0 {
                "none".to_owned()
            } else {
                format!("{} ({})", count(column.missing as u64), percent(share))
            },
            count(column.distinct as u64),
            Escaped(&examples),
        ),
    );
}

fn classes(page: &DataPage<'_>) -> Section {
    let mut html = String::new();
    let Some(first) = page.files.iter().find(|file| !file.profile.classes.is_empty()) else {
        return Section { id: "classes", title: "Classes", html };
    };
    let most = first.profile.classes.iter().map(|class| class.rows).max().unwrap_or(1).max(1);
    let rows_of = |file: &DataFile<'_>, label: &str| {
        file.profile.classes.iter().find(|class| class.label == label).map_or(0, |class| class.rows)
    };
    // The first file has all labels, unless something is wrong, which is then a finding.
    folded(&mut html, &first.profile.classes, SHOWN_CLASSES, |html, classes| {
        html.push_str("<div class=\"scroll\" tabindex=\"0\"><table class=\"compact\">\n<thead><tr><th scope=\"col\">Label</th><th scope=\"col\">Share</th>");
        for file in page.files {
            put(html, format_args!("<th scope=\"col\" class=\"n\">{}</th>", Escaped(&file.name)));
        }
        html.push_str("</tr></thead>\n<tbody>\n");
        for class in classes {
            let share = class.rows as f64 / first.profile.rows.max(1) as f64;
            put(
                html,
                format_args!(
                    "<tr><th scope=\"row\">{}</th><td style=\"white-space:nowrap\"><span class=\"meter\" style=\"width:min(260px,30vw)\" aria-hidden=\"true\"><i style=\"width:{:.1}%\"></i></span>{}</td>",
                    Escaped(&class.label),
                    100.0 * class.rows as f64 / most as f64,
                    percent(share)
                ),
            );
            for file in page.files {
                put(html, format_args!("<td class=\"n\">{}</td>", count(rows_of(file, &class.label) as u64)));
            }
            html.push_str("</tr>\n");
        }
        html.push_str("</tbody></table></div>\n");
    });
    Section { id: "classes", title: "Classes", html }
}

fn lengths(page: &DataPage<'_>) -> Section {
    let mut html = String::new();
    for file in page.files {
        let TableProfile { characters, tokens, pictures, .. } = file.profile;
        let sides = pictures.as_ref().map(|pictures| (&pictures.widths, &pictures.heights));
        let drawn = [
            (characters.as_ref(), "Length in characters", "characters"),
            (tokens.as_ref(), "Length in tokens", "tokens, special ones included"),
            (sides.map(|(widths, _)| widths), "Widths", "pixels"),
            (sides.map(|(_, heights)| heights), "Heights", "pixels"),
        ];
        let mut figures = String::new();
        for (lengths, title, unit) in drawn {
            let Some(lengths) = lengths else { continue };
            if let Some(chart) = distribution(lengths, title, unit) {
                figure(&mut figures, title, &summary(lengths), &chart, "");
            }
        }
        if !figures.is_empty() {
            file_heading(&mut html, page, file);
            put(&mut html, format_args!("<div class=\"pair\">\n{figures}</div>\n"));
        }
    }
    let title = if page.is_pictures() { "Sizes" } else { "Lengths" };
    Section { id: "lengths", title, html }
}

fn summary(lengths: &Distribution) -> String {
    let Distribution { least, p5, p50, p95, greatest, .. } = *lengths;
    let [least, p5, p50, p95, greatest] = [least, p5, p50, p95, greatest].map(|length| count(length as u64));
    format!("Median {p50}, nine of ten from {p5} to {p95}; all from {least} to {greatest}.")
}

/// Sizes and colour modes, and the pictures that findings are about.
fn pictures(page: &DataPage<'_>) -> Section {
    let mut html = String::new();
    if !page.is_pictures() {
        return Section { id: "pictures", title: "Pictures", html };
    }
    for file in page.files {
        let Some(pictures) = &file.profile.pictures else { continue };
        file_heading(&mut html, page, file);
        let modes: Vec<String> = pictures
            .modes
            .iter()
            .map(|(mode, pictures)| format!("{} {mode}", count(*pictures as u64)))
            .collect();
        let sizes: Vec<String> = pictures
            .sizes
            .iter()
            .map(|(width, height, pictures)| format!("{width} × {height} ({})", count(*pictures as u64)))
            .collect();
        let more = pictures.different_sizes - pictures.sizes.len();
        let more = if more > 0 { format!(" and {}", counted(more, "other")) } else { String::new() };
        put(
            &mut html,
            format_args!(
                "<dl><dt>Opened</dt><dd>{}</dd><dt>Colour modes</dt><dd>{}</dd><dt>Sizes</dt><dd>{}{}</dd></dl>\n",
                count(pictures.count as u64),
                Escaped(&modes.join(", ")),
                Escaped(&sizes.join(", ")),
                Escaped(&more)
            ),
        );
    }
    let found: Vec<&Finding> = page
        .findings
        .iter()
        .filter(|finding| {
            finding.severity != Severity::Info && finding.line.is_none() && !finding.file.is_dir()
        })
        .filter(|finding| {
            finding.code.ends_with("-picture") || matches!(finding.code, "odd-size" | "conflicting-labels")
        })
        .collect();
    if !found.is_empty() {
        html.push_str("<h3>Look at these</h3>\n");
        folded(&mut html, &found, SHOWN_FINDINGS, |html, found| {
            html.push_str("<ol class=\"examples pictures small\">\n");
            for finding in found {
                html.push_str("<li>");
                tile(html, page, &finding.file, &finding.message);
                put(html, format_args!("<p><span>{}</span></p></li>\n", Escaped(&finding.message)));
            }
            html.push_str("</ol>\n");
        });
    }
    Section { id: "pictures", title: "Pictures", html }
}

/// A picture's thumbnail, or why there is none, and its name.
fn tile(html: &mut String, page: &DataPage<'_>, path: &Path, otherwise: &str) {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    match page.thumbnails.get(path) {
        Some(bytes) => put(
            html,
            format_args!(
                "<img alt=\"{}\" src=\"data:image/jpeg;base64,{}\"/>",
                Escaped(&name),
                base64(bytes)
            ),
        ),
        None => put(html, format_args!("<div class=\"broken\">{}</div>", Escaped(otherwise))),
    }
    let whole = path.display().to_string();
    put(html, format_args!("<blockquote title=\"{}\">{}</blockquote>", Escaped(&whole), Escaped(&name)));
}

fn copies(page: &DataPage<'_>) -> Section {
    let mut html = String::new();
    let shown = &page.clusters[..page.clusters.len().min(MOST_CLUSTERS)];
    if !shown.is_empty() {
        let mut lead =
            "Rows that say the same, first those in several files and those with different labels."
                .to_owned();
        if page.clusters.len() > shown.len() {
            lead.push_str(&format!(" {} of {} groups; ", shown.len(), count(page.clusters.len() as u64)));
            lead.push_str("`retune data dedupe --json` lists all.");
        }
        put(&mut html, format_args!("<p class=\"lead\">{}</p>\n", Escaped(&lead)));
        folded(&mut html, shown, SHOWN_CLUSTERS, |html, clusters| {
            clusters.iter().for_each(|cluster| self::cluster(html, page, cluster));
        });
    }
    Section { id: "copies", title: "Copies", html }
}

fn cluster(html: &mut String, page: &DataPage<'_>, cluster: &CopyCluster) {
    let mut title = counted(cluster.rows.len(), "row");
    if cluster.similarity < 1.0 {
        title.push_str(&format!(", at least {} alike", percent(cluster.similarity)));
    } else {
        title.push_str(", equal");
    }
    if cluster.across {
        title.push_str(", in several files");
    }
    if !cluster.same_label {
        title.push_str(", with different labels");
    }
    put(html, format_args!("<h3>{}</h3>\n", Escaped(&title)));
    let is_picture = cluster.rows.iter().any(|row| row.picture.is_some());
    let class = if is_picture { "examples pictures small" } else { "examples" };
    put(html, format_args!("<ol class=\"{class}\">\n"));
    for row in cluster.rows.iter().take(CLUSTER_ROWS) {
        html.push_str("<li>");
        match &row.picture {
            Some(path) => tile(html, page, path, "not shown"),
            None => put(
                html,
                format_args!("<blockquote>{}</blockquote>", Escaped(&shortened(&row.content, LONGEST))),
            ),
        }
        html.push_str("<p>");
        if !row.label.is_empty() {
            put(html, format_args!("<span><b>{}</b></span>", Escaped(&row.label)));
        }
        if !is_picture {
            put(html, format_args!("<span>{}</span>", Escaped(&row.place)));
        }
        html.push_str("</p></li>\n");
    }
    html.push_str("</ol>\n");
    if cluster.rows.len() > CLUSTER_ROWS {
        let more = counted(cluster.rows.len() - CLUSTER_ROWS, "more row");
        put(html, format_args!("<p class=\"lead\">and {}</p>\n", Escaped(&more)));
    }
}

/// Some rows of each class of the first file.
fn rows(page: &DataPage<'_>) -> Section {
    let mut html = String::new();
    if let Some(file) = page.files.first() {
        let with_rows = file.profile.classes.iter().filter(|class| !class.examples.is_empty());
        for class in with_rows.take(CLASSES_WITH_ROWS) {
            put(&mut html, format_args!("<h3>{}</h3>\n", Escaped(&class.label)));
            row_list(&mut html, page, &class.examples);
        }
        if !file.profile.examples.is_empty() {
            row_list(&mut html, page, &file.profile.examples);
        }
        if !html.is_empty() {
            let lead = "From the first row to the last at even distances.";
            html.insert_str(0, &format!("<p class=\"lead\">{lead}</p>\n"));
        }
    }
    Section { id: "rows", title: "Rows", html }
}

fn row_list(html: &mut String, page: &DataPage<'_>, rows: &[RowProfile]) {
    let is_picture = rows.iter().any(|row| row.picture.is_some());
    let class = if is_picture { "examples pictures small" } else { "examples" };
    put(html, format_args!("<ol class=\"{class}\">\n"));
    for row in rows {
        html.push_str("<li>");
        match &row.picture {
            Some(path) => tile(html, page, path, "not shown"),
            None => put(
                html,
                format_args!(
                    "<blockquote>{}</blockquote><p><span>line {}</span></p>",
                    Escaped(&shortened(&row.content, LONGEST)),
                    row.line
                ),
            ),
        }
        html.push_str("</li>\n");
    }
    html.push_str("</ol>\n");
}
