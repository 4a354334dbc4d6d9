//! What a reader of a run folder gets, from complete, odd, damaged and hostile folders.

mod common;

use std::fs;
use std::path::Path;

use retune_report::{ReportError, Standing, headline, write_comparison, write_model_card, write_report};

fn report(folder: &Path) -> String {
    write_report(folder).unwrap();
    fs::read_to_string(folder.join("report.html")).unwrap()
}

/// The report is written so that an XML parser reads it, which finds every unclosed element and bare `<`.
fn well_formed(html: &str) -> roxmltree::Document<'_> {
    let body = html.strip_prefix("<!DOCTYPE html>").expect("starts with the document type");
    roxmltree::Document::parse(body).unwrap_or_else(|error| panic!("{error}"))
}

/// That a page is well formed, with headed tables and named drawings, without script, outside address or broken number.
fn assert_self_contained(name: &str, html: &str) {
    let document = well_formed(html);
    for node in document.descendants().filter(|node| node.is_element()) {
        let element = node.tag_name().name();
        assert!(
            !["script", "link", "img", "iframe", "object", "embed"].contains(&element),
            "{name}: <{element}>"
        );
        for attribute in node.attributes() {
            assert!(!attribute.name().starts_with("on"), "{name}: {}", attribute.name());
            assert!(!attribute.value().contains("NaN"), "{name}: {}={}", attribute.name(), attribute.value());
            if attribute.name() == "href" {
                let target = attribute.value().strip_prefix('#').expect("links stay inside the page");
                assert!(
                    document.descendants().any(|node| node.attribute("id") == Some(target)),
                    "{name}: #{target}"
                );
            }
        }
    }
    assert!(!html.contains("http://") && !html.contains("https://") && !html.contains("url("), "{name}");
    let cells_have_headers = document.descendants().filter(|node| node.has_tag_name("table")).all(|table| {
        table.descendants().any(|node| node.has_tag_name("th") && node.attribute("scope") == Some("col"))
    });
    assert!(cells_have_headers, "{name}");
    let drawings = document.descendants().filter(|node| node.has_tag_name("svg"));
    for drawing in drawings {
        assert!(drawing.attribute("aria-label").is_some_and(|label| !label.is_empty()), "{name}");
    }
}

#[test]
fn every_kind_of_run_gives_one_well_formed_page_without_script_or_address() {
    for (name, write) in common::VARIANTS {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        let html = report(folder.path());
        assert_self_contained(name, &html);
    }
}

#[test]
fn headlines_can_be_checked_by_a_person() {
    let sentences: Vec<String> = common::VARIANTS
        .iter()
        .map(|(name, write)| {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path());
            let verdict = headline(folder.path()).unwrap();
            format!("{name}: {} [{:?}] {}", verdict.sentence, verdict.standing, verdict.conclusion)
        })
        .collect();
    insta::assert_snapshot!(sentences.join("\n"));
}

#[test]
fn a_model_hardly_better_than_guessing_is_not_called_good() {
    let folder = tempfile::tempdir().unwrap();
    common::binary(folder.path());
    let verdict = headline(folder.path()).unwrap();
    assert_eq!(verdict.standing, Standing::WithinNoise);
    assert!(report(folder.path()).contains("not shown to be better than guessing"));
}

#[test]
fn hostile_texts_labels_and_messages_stay_text() {
    let attack =
        "</title></style><script>alert(1)</script><img src=x onerror=\"alert('2')\">&amp;\u{0}\u{1b}";
    let quoted = serde_json::Value::from(attack).to_string();
    let folder = tempfile::tempdir().unwrap();
    common::six_classes(folder.path());
    for file in ["log.jsonl", "metrics.json", "predictions/test.jsonl", "config.json", "load_report.json"] {
        let path = folder.path().join(file);
        let mut text = fs::read_to_string(&path).unwrap();
        for victim in [
            "\"refund\"",
            "\"head\"",
            "\"everything\"",
            "\"mail\"",
            "\"over_length\"",
            "\"avx2+fma\"",
            "\"classifier.bias\"",
            "\"0.1.0\"",
        ] {
            text = text.replace(victim, &quoted);
        }
        for message in ["Parcel says delivered", "11 of 742 training texts"] {
            text = text.replace(message, quoted.trim_matches('"'));
        }
        fs::write(path, text).unwrap();
    }
    let recipe = folder.path().join("recipe.lock.toml");
    let attacked = fs::read_to_string(&recipe).unwrap() + "\n# </code></pre><script>alert(3)</script>\n";
    fs::write(recipe, attacked).unwrap();
    let html = report(folder.path());
    assert!(html.contains("&lt;script&gt;alert(1)") && html.contains("&lt;script&gt;alert(3)"));
    let document = well_formed(&html);
    let elements = || document.descendants().filter(|node| node.is_element());
    assert!(elements().all(|node| !["script", "img"].contains(&node.tag_name().name())));
    assert!(
        elements().flat_map(|node| node.attributes()).all(|attribute| !attribute.name().starts_with("on"))
    );
    write_model_card(folder.path()).unwrap();
    let card = fs::read_to_string(folder.path().join("README.md")).unwrap();
    assert!(!card.contains("<script>") && !card.contains("<img"));
}

#[test]
fn an_empty_folder_has_a_report_and_no_folder_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    well_formed(&report(folder.path()));
    write_model_card(folder.path()).unwrap();
    let missing = folder.path().join("nowhere");
    assert!(matches!(write_report(&missing), Err(ReportError::NoRunFolder { .. })));
}

#[test]
fn damaged_files_are_named_and_the_rest_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    common::six_classes(folder.path());
    fs::write(folder.path().join("metrics.json"), "{\"test_accuracy\": 0.8,").unwrap();
    fs::write(folder.path().join("recipe.lock.toml"), "[model\n").unwrap();
    fs::write(
        folder.path().join("log.jsonl"),
        b"\xff\x00{}\n{\"event\":\"run_started\"}\n{\"event\":\"step_en",
    )
    .unwrap();
    let html = report(folder.path());
    well_formed(&html);
    for file in ["metrics.json", "recipe.lock.toml", "log.jsonl"] {
        assert!(html.contains(file), "{file}");
    }
    assert!(html.contains("Most wrong"));
}

#[test]
fn metrics_of_unexpected_types_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = r#"{"test_accuracy": "high", "test_f1_macro": 0.5, "test_f1_macro_ci95": [1],
        "test_confusion_matrix": {"labels": ["a"], "matrix": [[1, 2]]}, "test_per_class": 7, "test_mcc": null,
        "test_reliability": [{}], "temperature": []}"#;
    fs::write(folder.path().join("metrics.json"), metrics).unwrap();
    let html = report(folder.path());
    well_formed(&html);
    assert!(html.contains("undefined"));
}

#[test]
fn a_report_is_replaced_whole_and_leaves_nothing_else_behind() {
    let folder = tempfile::tempdir().unwrap();
    common::interrupted(folder.path());
    fs::write(folder.path().join("report.html"), "old").unwrap();
    let html = report(folder.path());
    assert!(html.ends_with("</html>\n"));
    assert_eq!(report(folder.path()), html);
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.count(), 3);
}

#[test]
fn a_model_card_says_what_was_measured_and_what_was_not() {
    let folder = tempfile::tempdir().unwrap();
    common::six_classes(folder.path());
    write_model_card(folder.path()).unwrap();
    let card = fs::read_to_string(folder.path().join("README.md")).unwrap();
    let name = folder.path().file_name().unwrap().to_string_lossy().into_owned();
    let escaped = name.replace('_', "\\_");
    let path = folder.path().to_string_lossy().into_owned();
    insta::assert_snapshot!(card.replace(&path, "RUN").replace(&name, "RUN").replace(&escaped, "RUN"));
}

#[test]
fn a_comparison_of_strategies_is_one_well_formed_page_that_says_what_to_take_and_why() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(write_comparison(folder.path()).unwrap(), None);
    common::comparison(folder.path());
    let path = write_comparison(folder.path()).unwrap().unwrap();
    let html = fs::read_to_string(path).unwrap();
    assert_self_contained("comparison", &html);
    for said in [
        "Take last_n = 1: accuracy 0.902 (0.871 to 0.929) in 1\u{a0}min 1\u{a0}s a run",
        "within one standard error",
        "dropped after step 80",
        "product defect 70.2%",
        "it cost 56% of that",
        "H-score",
    ] {
        assert!(html.contains(said), "{said} is missing");
    }
    // Ranked from the best cut on: the probe below encoder.layer.5 beats the head's.
    let table = &html[html.find("Features below").unwrap()..];
    assert!(table.find("encoder.layer.5").unwrap() < table.find(">head<").unwrap());
}

#[test]
fn a_comparison_with_gaps_and_hostile_names_is_still_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("comparison.json");
    let found = r#"{"metric": "f1</script><script>", "strategies": [{"name": "\"><img src=x>", "value": null, "seconds": 3}],
                    "models": [{"model": "<b>", "cuts": []}]}"#;
    fs::write(&path, found).unwrap();
    write_comparison(folder.path()).unwrap();
    let html = fs::read_to_string(folder.path().join("comparison.html")).unwrap();
    assert_self_contained("gaps", &html);
    fs::write(&path, "{").unwrap();
    let refused = write_comparison(folder.path()).unwrap_err();
    assert!(refused.to_string().contains("comparison.json"), "{refused}");
}
