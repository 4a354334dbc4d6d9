//! The page itself: one HTML file, well formed as XML, without scripts and without a single outside address.
//! Its content policy forbids both, should escaping ever fail.

mod classes;
pub(crate) mod comparison;
mod details;
mod examples;
mod explained;
mod result;
mod training;

use std::fmt::{Display, Write};

use crate::format::{Escaped, count, duration, time};
use crate::run::Run;
use crate::verdict::{Standing, Verdict};

const STYLE: &str = include_str!("style.css");
const POLICY: &str =
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// A part of the page with its heading; empty content leaves it out, heading and link and all.
pub(crate) struct Section {
    pub id: &'static str,
    pub title: &'static str,
    pub html: String,
}

/// The whole page.
pub(crate) fn render(run: &Run) -> String {
    let verdict = Verdict::of(run);
    let sections = vec![
        result::section(run),
        training::section(run),
        classes::section(run),
        result::calibration(run),
        examples::section(run),
        explained::section(run),
        details::data(run),
        details::usage(run),
        details::section(run),
    ];
    let name = run.name();
    let mut head = String::new();
    header(&mut head, run, &name, &verdict);
    let version = run.log.started.as_ref().map(|started| started.version.as_str()).unwrap_or_default();
    document(&format!("{name} · Retune report"), &head, sections, version)
}

/// A page of its own: title, header, links to the sections, and the sections. Empty ones are left out.
pub(crate) fn document(title: &str, header: &str, sections: Vec<Section>, version: &str) -> String {
    let sections: Vec<Section> = sections.into_iter().filter(|section| !section.html.is_empty()).collect();
    let mut page = String::with_capacity(64 * 1024);
    put(&mut page, format_args!("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"));
    put(&mut page, format_args!("<meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\"/>\n"));
    put(
        &mut page,
        format_args!("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"),
    );
    put(&mut page, format_args!("<title>{}</title>\n", Escaped(title)));
    put(&mut page, format_args!("<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<header>\n{header}"));
    put(&mut page, format_args!("<nav aria-label=\"Contents\">"));
    for section in &sections {
        put(&mut page, format_args!("<a href=\"#{}\">{}</a>", section.id, section.title));
    }
    put(&mut page, format_args!("</nav>\n</header>\n"));
    for Section { id, title, html } in &sections {
        put(
            &mut page,
            format_args!(
                "<section id=\"{id}\" aria-labelledby=\"{id}-title\">\n<h2 id=\"{id}-title\">{title}</h2>\n{html}</section>\n"
            ),
        );
    }
    put(
        &mut page,
        format_args!("<footer>Written by Retune {}</footer>\n</main>\n</body>\n</html>\n", Escaped(version)),
    );
    page
}

fn header(page: &mut String, run: &Run, name: &str, verdict: &Verdict) {
    let mut facts = Vec::new();
    if let Some(started) = &run.log.started {
        facts.extend((!started.task.is_empty()).then(|| started.task.replace(['-', '_'], " ")));
    }
    facts.extend(run.base_model().map(str::to_owned));
    if let Some(ended) = &run.log.ended {
        let seconds = ended.seconds.map(|seconds| format!(" in {}", duration(seconds))).unwrap_or_default();
        facts.push(format!("{} steps{seconds}", count(ended.step)));
    }
    facts.extend(run.log.started.as_ref().and_then(|started| time(&started.time)));
    put(page, format_args!("<p class=\"run\"><strong>{}</strong>", Escaped(name)));
    for fact in &facts {
        put(page, format_args!(" · {}", Escaped(fact)));
    }
    let class = match verdict.standing {
        Standing::AboveBaselines => " above",
        Standing::WithinNoise | Standing::BelowBaseline => " below",
        Standing::Unknown => "",
    };
    put(page, format_args!("</p>\n<h1>{}</h1>\n", Escaped(&verdict.sentence)));
    if !verdict.conclusion.is_empty() {
        put(page, format_args!("<p class=\"conclusion{class}\">{}</p>\n", Escaped(&verdict.conclusion)));
    }
    result::scale(page, run);
    warnings(page, run);
}

fn warnings(page: &mut String, run: &Run) {
    let mut notes: Vec<(String, &str)> =
        run.log.warnings.iter().map(|warning| (warning.message.clone(), warning.code.as_str())).collect();
    notes.extend(run.damaged.iter().map(|reason| (format!("This file could not be read. {reason}"), "")));
    let unreadable = run.log.unreadable_lines;
    if unreadable > 0 {
        let lines = if unreadable == 1 { "One line".to_owned() } else { format!("{unreadable} lines") };
        notes.push((
            format!("{lines} of log.jsonl could not be read; an interrupted write leaves one behind."),
            "",
        ));
    }
    for split in run.predictions.iter().filter(|split| split.unreadable_lines > 0) {
        notes.push((
            format!(
                "{} lines of predictions/{}.jsonl could not be read.",
                split.unreadable_lines, split.split
            ),
            "",
        ));
    }
    if notes.is_empty() {
        return;
    }
    put(page, format_args!("<ul class=\"notes\" aria-label=\"Warnings\">\n"));
    for (message, code) in notes {
        put(page, format_args!("<li>{}", Escaped(&message)));
        if !code.is_empty() {
            put(page, format_args!(" <code>{}</code>", Escaped(code)));
        }
        put(page, format_args!("</li>\n"));
    }
    put(page, format_args!("</ul>\n"));
}

/// Appends to a page under construction; writing to a `String` cannot fail.
pub(crate) fn put(page: &mut String, arguments: std::fmt::Arguments) {
    let _ = page.write_fmt(arguments);
}

/// A chart with its title above it.
pub(crate) fn figure(page: &mut String, title: &str, explanation: &str, chart: &str, legend: &str) {
    put(
        page,
        format_args!(
            "<figure><figcaption>{}<span>{}</span></figcaption>",
            Escaped(title),
            Escaped(explanation)
        ),
    );
    put(page, format_args!("{chart}{legend}</figure>\n"));
}

/// Term and description, escaped.
pub(crate) fn definition(page: &mut String, term: &str, description: impl Display) {
    let description = description.to_string();
    put(page, format_args!("<dt>{}</dt><dd>{}</dd>\n", Escaped(term), Escaped(&description)));
}
