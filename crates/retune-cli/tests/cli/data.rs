//! Data looked at, repaired and cut into folds before anything is trained on it.

use serde_json::Value;

use crate::workspace::Workspace;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Header and rows of the training file as lines.
fn training_lines(workspace: &Workspace) -> Vec<String> {
    workspace.read("train.csv").lines().map(str::to_owned).collect()
}

#[test]
fn a_file_is_repaired_into_a_new_one_with_a_list_of_every_change() {
    let workspace = Workspace::new();
    let mut lines = training_lines(&workspace);
    let last = |line: &str| line.rsplit_once(',').unwrap().1.to_owned();
    lines[4] = format!("{},  {}", lines[4].rsplit_once(',').unwrap().0, last(&lines[4]));
    lines[6] = lines[6].replace(&last(&lines[6]), &last(&lines[6]).to_uppercase());
    lines[8] = format!("{},more", lines[8]);
    lines[9] = lines[9].replacen("train-8,", "train-8,cafÃ© ", 1);
    lines.push(lines[2].replace("train-1", "train-x"));
    lines.push("train-y,,food".to_owned());
    let dirty = lines.join("\n") + "\n";
    workspace.write("dirty.csv", &dirty);

    let said = workspace.retune(&["data", "clean", "dirty.csv", "--dry-run"]).succeeded();
    assert!(
        said.stdout.contains("nothing was written") && said.stdout.contains("dirty.csv:9: unreadable"),
        "{}",
        said.stdout
    );
    assert!(!workspace.path("clean.csv").exists());

    let said = workspace.retune(&["data", "clean", "dirty.csv", "--out", "clean.csv", "--json"]).succeeded();
    let found = json(&said.stdout);
    assert_eq!((&found["rows"], &found["kept"]), (&62.into(), &59.into()));
    let changes: Vec<(String, u64)> = found["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| (change["fix"].as_str().unwrap().to_owned(), change["line"].as_u64().unwrap()))
        .collect();
    let expected = [
        ("unreadable", 9),
        ("mojibake", 10),
        ("whitespace", 5),
        ("label-twins", 7),
        ("unusable", 63),
        ("duplicates", 62),
    ];
    assert_eq!(changes, expected.map(|(fix, line)| (fix.to_owned(), line)));
    assert_eq!(workspace.read("dirty.csv"), dirty);
    let listed = workspace.read("clean.changes.csv");
    assert!(
        listed.starts_with("fix,file,line,column,before,after,reason\nunreadable,dirty.csv,9,"),
        "{listed}"
    );
    assert_eq!(listed.lines().count(), 7);

    // What was written has nothing more to repair, and a fit would take it.
    let again = workspace.retune(&["data", "clean", "clean.csv", "--dry-run", "--json"]).succeeded();
    assert_eq!(json(&again.stdout)["changes"], Value::Array(vec![]));
    workspace.retune(&["data", "check", "clean.csv"]).succeeded();
    // Nothing is overwritten, least of all the file itself.
    workspace.retune(&["data", "clean", "dirty.csv", "--output", "dirty.csv"]).exited(2).saying(&["already"]);
    workspace.retune(&["data", "clean", "dirty.csv", "--output", "clean.csv"]).exited(2).saying(&["already"]);
    assert_eq!(workspace.read("dirty.csv"), dirty);
    workspace.retune(&["data", "clean", "dirty.csv"]).exited(2);
    let wrong = ["data", "clean", "dirty.csv", "--dry-run", "--without", "label-twin"];
    workspace.retune(&wrong).exited(2).saying(&["did you mean `label-twins`?"]);
    // What no repair helps is still refused.
    workspace.write("one.csv", "text,label\na b,x\nc d,x\ne f ,x\n");
    workspace.retune(&["data", "clean", "one.csv", "--dry-run"]).exited(3);
}

#[test]
fn a_file_is_shown_with_its_columns_classes_lengths_and_rows() {
    let workspace = Workspace::new();
    let shown = workspace.retune(&["data", "show", "train.csv", "--model", "model"]).succeeded().stdout;
    for words in [
        "train.csv: 60 rows, 3 columns",
        "animals",
        "33.3%",
        "####",
        "characters of a text",
        "tokens of a text",
        "line 2: ",
    ] {
        assert!(shown.contains(words), "{words} is missing in:\n{shown}");
    }
    let found =
        json(&workspace.retune(&["data", "show", "recipe.toml", "--json", "--rows", "2"]).succeeded().stdout);
    let files = found["files"].as_array().unwrap();
    assert_eq!(
        files.iter().map(|file| file["split"].as_str().unwrap()).collect::<Vec<_>>(),
        ["train", "validation", "test"]
    );
    assert_eq!(files[0]["columns"][1]["role"], "text");
    assert_eq!(files[0]["classes"][0]["rows"], 20);
    assert_eq!(files[0]["classes"][0]["examples"].as_array().unwrap().len(), 2);
    // The recipe's own tokenizer counts; a text has two special tokens.
    let tokens = &files[0]["tokens"];
    assert!(tokens["least"].as_u64().unwrap() >= 7 && tokens["count"] == 60, "{tokens}");
}

#[test]
fn folds_cover_every_row_once_and_near_copies_share_a_fold() {
    let workspace = Workspace::new();
    let mut lines = training_lines(&workspace);
    let long =
        "we saw the old train again today and liked the new map with some bread and cheese near the beach";
    lines.push(format!("near-1,{long},travel"));
    lines.push(format!("near-2,{} too,travel", long));
    workspace.write("all.csv", &(lines.join("\n") + "\n"));
    let split = |folder: &str, options: &[&str]| {
        workspace.retune(
            &[&["data", "split", "all.csv", "--output", folder, "--folds", "4"][..], options].concat(),
        )
    };
    let ids = |name: &str| -> Vec<String> {
        workspace.read(name).lines().skip(1).map(|line| line.split(',').next().unwrap().to_owned()).collect()
    };
    split("folds", &[]).succeeded();
    let held: Vec<Vec<String>> =
        (1..=4).map(|fold| ids(&format!("folds/fold-{fold}/validation.csv"))).collect();
    let mut every = held.concat();
    every.sort();
    every.dedup();
    assert_eq!((held.concat().len(), every.len()), (62, 62));
    for (fold, held) in (1..).zip(&held) {
        let train = ids(&format!("folds/fold-{fold}/train.csv"));
        assert!(train.len() + held.len() == 62 && held.iter().all(|id| !train.contains(id)));
        let near = ["near-1", "near-2"].map(|id| held.iter().any(|held| held == id));
        assert_eq!(near[0], near[1]);
        let of = |topic: &str| {
            workspace
                .read(&format!("folds/fold-{fold}/validation.csv"))
                .matches(&format!(",{topic}\n"))
                .count()
        };
        assert!(["animals", "food", "travel"].into_iter().all(|topic| (4..=7).contains(&of(topic))));
    }
    split("again", &[]).succeeded();
    assert_eq!(ids("folds/fold-2/validation.csv"), ids("again/fold-2/validation.csv"));
    split("tested", &["--test", "0.2", "--near-copies", "apart"]).succeeded();
    assert!((10..=15).contains(&ids("tested/test.csv").len()));
    // By hash no row changes its fold when others are appended.
    split("hashed", &["--by-hash"]).succeeded();
    let more = crate::workspace::rows("more", 30);
    workspace.write("all.csv", &format!("{}\n{}", lines.join("\n"), more.split_once('\n').unwrap().1));
    split("longer", &["--by-hash"]).succeeded();
    for fold in 1..=4 {
        let name = format!("fold-{fold}/validation.csv");
        let older: Vec<String> =
            ids(&format!("longer/{name}")).into_iter().filter(|id| !id.starts_with("more")).collect();
        assert_eq!(ids(&format!("hashed/{name}")), older);
    }
    split("folds", &["--validation", "0.1"]).exited(2);
}

#[test]
fn a_column_whose_cells_must_not_be_empty_refuses_the_data_with_their_lines() {
    let workspace = Workspace::new();
    let mut lines = training_lines(&workspace);
    for line in [3, 5, 8, 13, 21] {
        lines[line] = format!(",{}", lines[line].split_once(',').unwrap().1);
    }
    workspace.write("train.csv", &(lines.join("\n") + "\n"));
    let refuse = "data.refuse_missing=[\"ticket\"]";
    workspace.retune(&["fit", "recipe.toml", refuse]).exited(3).saying(&[
        "train.csv:4: error[missing-cell]: column `ticket`",
        "train.csv:9:",
        "5 rows in all",
    ]);
    let said = workspace.retune(&["data", "check", "recipe.toml", refuse, "--json"]).exited(3);
    assert_eq!(json(&said.stdout)["files"][0]["missing"]["ticket"], 5);
    let said = workspace.retune(&["data", "check", "train.csv"]).succeeded();
    assert!(said.stdout.contains("`ticket` is empty in 5 rows (8.3%)"), "{}", said.stdout);
    let both = ["fit", "recipe.toml", refuse, "data.drop_missing=[\"ticket\"]"];
    workspace.retune(&both).exited(2).saying(&["refuse_missing", "ticket"]);
}

#[test]
fn a_page_shows_what_was_found_without_script_or_network() {
    let workspace = Workspace::new();
    let mut lines = training_lines(&workspace);
    lines.push(lines[2].replace("train-1", "<script>alert(1)</script>"));
    lines[7] = lines[7].replace("travel", "Travel").replace("animals", "Animals").replace("food", "Food");
    workspace.write("train.csv", &(lines.join("\n") + "\n"));
    workspace.retune(&["data", "check", "recipe.toml", "--html", "data.html"]).succeeded();
    let page = workspace.read("data.html");
    for words in ["label-twins", "train.csv:8", "Length in tokens", "rows, equal", "<svg", "Worth knowing"] {
        assert!(page.contains(words), "{words}");
    }
    assert!(!page.contains("<script") && !page.contains("http://") && !page.contains("https://"));
    // A file that cannot be read still has a page with the reason.
    workspace.write("broken.csv", "text,label\na,b,c\nd,e\n");
    workspace.retune(&["data", "check", "broken.csv", "--html", "broken.html"]).exited(3);
    assert!(workspace.read("broken.html").contains("ragged-row"));
}

#[cfg(unix)]
#[test]
fn a_page_about_pictures_shows_the_broken_the_copied_and_the_odd() {
    let workspace = crate::images::workspace();
    let folder = workspace.path("pictures/train/discs");
    std::fs::copy(folder.join("00.jpg"), folder.join("90.jpg")).unwrap();
    let whole = std::fs::read(folder.join("01.jpg")).unwrap();
    std::fs::write(folder.join("91.jpg"), &whole[..whole.len() / 2]).unwrap();
    let said = workspace.retune(&["data", "check", "pictures", "--html", "pictures.html"]).exited(3);
    assert!(said.stdout.contains("truncated-picture"), "{}", said.stdout);
    let page = workspace.read("pictures.html");
    assert!(page.matches("data:image/jpeg;base64,").count() > 10 && page.contains("class=\"broken\""));
    assert!(page.contains("duplicate-picture") && page.contains("Colour modes"));
    let shown = workspace.retune(&["data", "show", "pictures/train"]).succeeded().stdout;
    assert!(shown.contains("25 pictures") && shown.contains("colour modes: 25 RGB"), "{shown}");
    let cleaned =
        workspace.retune(&["data", "clean", "pictures/train", "--output", "train.csv.new.csv", "--json"]);
    let found = json(&cleaned.succeeded().stdout);
    assert_eq!((&found["rows"], &found["kept"]), (&26.into(), &24.into()));
}
