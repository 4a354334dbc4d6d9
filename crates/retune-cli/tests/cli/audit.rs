//! The truth about data: copies, splits, doubtful labels, and what a person decided about them.

use serde_json::Value;

use crate::workspace::{Workspace, rows};

/// A CSV's rows without its header.
fn lines(text: &str) -> Vec<&str> {
    text.lines().skip(1).collect()
}

#[test]
fn copies_are_taken_out_of_training_and_a_test_file_is_left_alone() {
    let workspace = Workspace::new();
    let (train, test) = (workspace.read("train.csv"), workspace.read("test.csv"));
    let train_rows = lines(&train);
    // A training row in the test file in other dress, one twice in training, and one twice in the test file.
    let leaked = train_rows[3].replace("train-3", "test-x").to_uppercase().replace("TEST-X", "test-x");
    let leaked =
        leaked.rsplit_once(',').map(|(text, topic)| format!("{text},{}", topic.to_lowercase())).unwrap();
    let twice = lines(&test)[5].to_owned();
    workspace.write("test.csv", &format!("{test}{leaked}\n{twice}\n"));
    workspace
        .write("train.csv", &format!("{train}{},travel\n", train_rows[10].strip_suffix(",food").unwrap()));
    let said =
        workspace.retune(&["data", "dedupe", "recipe.toml", "--output", "clean", "--json"]).succeeded();
    let found: Value = serde_json::from_str(&said.stdout).unwrap();
    let file = |name: &str| {
        let files = found["files"].as_array().unwrap();
        files.iter().find(|file| file["split"] == name).unwrap().clone()
    };
    assert_eq!((&file("test")["copies_within"], &file("test")["kept"]), (&1.into(), &27.into()));
    assert_eq!((&file("train")["copies_across"], &file("train")["copies_within"]), (&1.into(), &1.into()));
    let clean = workspace.read("clean/train.csv");
    assert_eq!(lines(&clean).len(), 59);
    assert!(!clean.contains(train_rows[3]) && clean.contains(train_rows[10]));
    assert_eq!(workspace.read("clean/test.csv"), workspace.read("test.csv"));
    let copies = found["copies"].as_array().unwrap();
    assert!(
        copies.iter().any(|copy| copy["line"] == 62 && copy["of_line"] == 12 && copy["same_label"] == false)
    );
    let again = workspace.retune(&["data", "dedupe", "recipe.toml", "--output", "clean"]);
    again.exited(2).saying(&["clean", "already"]);
    let text = workspace.retune(&["data", "dedupe", "recipe.toml"]).succeeded().stdout;
    assert!(text.contains("copies of other files"), "{text}");
}

#[test]
fn a_result_is_also_given_on_test_rows_that_are_no_copies() {
    let workspace = Workspace::new();
    workspace.fit("clean", &["max_steps=2"]);
    let metrics = workspace.json("clean/metrics.json");
    assert_eq!((&metrics["test_copies"], &metrics["test_clean_accuracy"]), (&0.into(), &Value::Null));
    let (train, test) = (workspace.read("train.csv"), workspace.read("test.csv"));
    workspace.write("test.csv", &format!("{test}{}\n", lines(&train)[..5].join("\n")));
    let said = workspace.fit("leaked", &["max_steps=2"]);
    let metrics = workspace.json("leaked/metrics.json");
    assert_eq!((&metrics["test_samples"], &metrics["test_copies"]), (&30.into(), &5.into()));
    assert_eq!(metrics["test_clean_samples"], 25);
    assert!(said.stderr.contains("5 of 30 test samples are copies"), "{}", said.stderr);
    let predictions = workspace.json_lines("leaked/predictions/test.jsonl");
    assert_eq!((&predictions[25]["copy_of"]["line"], &predictions[0]["copy_of"]), (&2.into(), &Value::Null));
    // The share of right answers among the others, by hand.
    let right = predictions[..25].iter().filter(|row| row["target"] == row["prediction"]).count();
    assert!((metrics["test_clean_accuracy"].as_f64().unwrap() - right as f64 / 25.0).abs() < 1e-12);
}

#[test]
fn a_run_that_holds_out_rows_itself_keeps_near_copies_together_when_asked() {
    let workspace = Workspace::new();
    let train = workspace.read("train.csv");
    let ending_with = |letter: &str| -> String {
        let row = |line: &str| {
            let [ticket, text, topic] = line.splitn(3, ',').collect::<Vec<_>>().try_into().unwrap();
            format!("{ticket}-{letter},{text} {letter},{topic}\n")
        };
        train.lines().skip(1).map(row).collect()
    };
    let near_copies = format!("ticket,message,topic\n{}{}", ending_with("a"), ending_with("b"));
    workspace.write("train.csv", &near_copies);
    let fit = |folder: &str, overrides: &[&str]| {
        let cut = ["max_steps=2", "validation_split=0.3"];
        workspace.retune(
            &[&["fit", "recipe-of-one-file.toml", &format!("output_dir={folder}")], &cut[..], overrides]
                .concat(),
        )
    };
    let recipe = workspace.read("recipe.toml");
    let of_one_file: String = recipe
        .lines()
        .filter(|line| !line.starts_with("validation ="))
        .flat_map(|line| [line, "\n"])
        .collect();
    workspace.write("recipe-of-one-file.toml", &of_one_file);
    let said = fit("apart", &[]).succeeded();
    assert!(workspace.json("apart/metrics.json")["eval_copies"].as_u64().unwrap() > 0);
    assert!(
        said.stderr.contains("data.near_copies = \"together\" keeps them on one side"),
        "{}",
        said.stderr
    );
    fit("together", &["near_copies=together"]).succeeded();
    assert_eq!(workspace.json("together/metrics.json")["eval_copies"], 0);
    fit("by-time", &["near_copies=together", "time_column=ticket"])
        .exited(2)
        .saying(&["near_copies", "by time"]);
}

#[test]
fn a_file_is_split_the_same_way_every_time_and_by_what_was_asked() {
    let workspace = Workspace::new();
    let split = |folder: &str, options: &[&str]| {
        workspace.retune(&[&["data", "split", "train.csv", "--output", folder][..], options].concat())
    };
    let ids = |name: &str| -> Vec<String> {
        let text = workspace.read(name);
        let mut ids: Vec<String> =
            lines(&text).iter().map(|row| row.split(',').next().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    split("a", &[]).succeeded();
    assert_eq!(["a/train.csv", "a/validation.csv", "a/test.csv"].map(|name| ids(name).len()), [48, 6, 6]);
    let topics = |topic: &str| workspace.read("a/test.csv").matches(topic).count();
    assert_eq!(["animals", "food", "travel"].map(topics), [2, 2, 2]);
    // Shuffled rows, same parts.
    let train = workspace.read("train.csv");
    let header = train.lines().next().unwrap();
    let reversed: Vec<&str> = lines(&train).into_iter().rev().collect();
    workspace.write("train.csv", &format!("{header}\n{}\n", reversed.join("\n")));
    split("b", &[]).succeeded();
    assert_eq!(ids("a/test.csv"), ids("b/test.csv"));
    split("c", &["--seed", "7"]).succeeded();
    assert_ne!(ids("a/test.csv"), ids("c/test.csv"));
    // By hash alone no row moves when others come.
    split("d", &["--by-hash", "--test", "0.3", "--validation", "0.2"]).succeeded();
    workspace.write(
        "train.csv",
        &format!("{header}\n{}\n{}", reversed.join("\n"), &rows("more", 30)[header.len() + 1..]),
    );
    split("e", &["--by-hash", "--test", "0.3", "--validation", "0.2"]).succeeded();
    let older = |name: &str| ids(name).into_iter().filter(|id| id.starts_with("train-")).collect::<Vec<_>>();
    for part in ["train", "validation", "test"] {
        assert_eq!(older(&format!("d/{part}.csv")), older(&format!("e/{part}.csv")), "{part}");
    }
    split("f", &["--by-time", "ticket", "--validation", "0"]).succeeded();
    assert!(ids("f/train.csv").last() < ids("f/test.csv").first());
    assert!(!workspace.path("f/validation.csv").exists());
    split("a", &[]).exited(2).saying(&["a/", "already"]);
    split("g", &["--test", "1.5"]).exited(2);
}

/// 240 rows of which 12 have the next topic's label, and the numbers of those.
fn flipped(workspace: &Workspace) -> Vec<u64> {
    let mut text = String::new();
    let mut flipped = Vec::new();
    for (index, row) in rows("train", 240).lines().enumerate() {
        let next = [("animals", "food"), ("food", "travel"), ("travel", "animals")];
        let (rest, topic) = row.rsplit_once(',').unwrap();
        let topic = match next.iter().find(|(from, _)| *from == topic) {
            Some((_, to)) if index % 20 == 7 => {
                flipped.push(index as u64 + 1);
                to
            }
            _ => topic,
        };
        text.push_str(&format!("{rest},{topic}\n"));
    }
    workspace.write("train.csv", &text);
    flipped
}

#[test]
fn wrong_labels_stand_first_in_the_queue() {
    let workspace = Workspace::new();
    let flipped = flipped(&workspace);
    let said = workspace.retune(&["data", "review", "recipe.toml", "--json"]).succeeded();
    let found: Value = serde_json::from_str(&said.stdout).unwrap();
    let queue = found["queue"].as_array().unwrap();
    assert_eq!((queue.len(), flipped.len()), (240, 12));
    let is_flipped = |row: &Value| flipped.contains(&row["line"].as_u64().unwrap());
    let first = queue[..24].iter().filter(|row| is_flipped(row)).count();
    // The features are those of random weights; by chance there would be 1.2.
    assert!(first >= 5, "{first} of 12 in the first tenth of the queue");
    let again = workspace.retune(&["data", "review", "recipe.toml"]);
    again.exited(2).saying(&["review.csv", "decisions"]);
    workspace.retune(&["data", "review", "recipe.toml", "--output", "again.csv"]).succeeded();
    assert_eq!(workspace.read("review.csv"), workspace.read("again.csv"));
}

#[test]
fn what_a_run_saw_of_its_samples_orders_the_queue_too() {
    let workspace = Workspace::new();
    let flipped = flipped(&workspace);
    workspace.fit("run", &["record_dynamics=true", "num_train_epochs=4"]);
    let seen = workspace.read("run/training_dynamics.csv");
    assert!(seen.starts_with("line,label,area_under_margin,forgetting_events,learned,passes\n2,"), "{seen}");
    assert!(seen.lines().count() == 241 && seen.lines().skip(1).all(|row| row.ends_with(",4")), "{seen}");
    let said =
        workspace.retune(&["data", "review", "recipe.toml", "--dynamics", "run", "--json"]).succeeded();
    let found: Value = serde_json::from_str(&said.stdout).unwrap();
    let queue = found["queue"].as_array().unwrap();
    let is_flipped = |row: &&Value| flipped.contains(&row["line"].as_u64().unwrap());
    assert!(queue[..24].iter().filter(is_flipped).count() >= 6, "{queue:?}");
    assert_eq!(queue[0]["dynamics"]["passes"], 4);
    assert!(
        workspace.read("review.csv").lines().next().unwrap().contains("area_under_margin,forgetting_events")
    );
    // A run that answers validation data better than the classifier answers held-out rows judges alone.
    workspace.write("run/metrics.json", r#"{"eval_accuracy": 1.0, "eval_accuracy_ci95": [0.999, 1.0]}"#);
    let judge = ["data", "review", "recipe.toml", "--dynamics", "run", "--output", "run.csv", "--json"];
    let found: Value = serde_json::from_str(&workspace.retune(&judge).succeeded().stdout).unwrap();
    assert_eq!(found["better_judge"], 1.0);
    let area = |row: &Value| row["dynamics"]["area_under_margin"].as_f64().unwrap();
    assert!(found["queue"].as_array().unwrap().is_sorted_by(|a, b| area(a) <= area(b)), "{found}");
    // Of other data a run knows nothing.
    workspace.write("train.csv", &rows("other", 240));
    let other = ["data", "review", "recipe.toml", "--dynamics", "run", "--output", "other.csv"];
    workspace.retune(&other).exited(1).saying(&["run", "learned from"]);
    workspace.fit("plain", &["max_steps=1"]);
    let none = ["data", "review", "recipe.toml", "--dynamics", "plain", "--output", "none.csv"];
    workspace.retune(&none).exited(1).saying(&["record_dynamics"]);
}

#[test]
fn a_persons_decisions_are_applied_and_belong_to_the_run() {
    let workspace = Workspace::new();
    let train = workspace.read("train.csv");
    let text = |line: usize| train.lines().nth(line - 1).unwrap().split(',').nth(1).unwrap();
    let label = |line: usize| train.lines().nth(line - 1).unwrap().rsplit(',').next().unwrap();
    let row = |decision: &str, new: &str, line: usize| {
        format!("{decision},{new},{},{line},{}\n", label(line), text(line))
    };
    let header = "decision,new_label,label,line,content\n";
    let decisions =
        [row("relabel", "travel", 2), row("drop", "", 3), row("Keep", "food", 4), row("", "food", 5)];
    workspace.write("review.csv", &format!("{header}{}", decisions.concat()));
    let said = workspace.fit("run", &["--apply-review", "review.csv"]);
    assert!(said.stderr.contains("1 relabelled, 1 dropped, 1 kept"), "{}", said.stderr);
    assert!(workspace.read("run/recipe.lock.toml").contains("review.csv"));
    assert!(workspace.read("run/log.jsonl").contains("1 relabelled"));
    workspace.retune(&["resume", "run"]).succeeded();
    workspace.write("review.csv", &format!("{header}{}", row("drop", "", 7)));
    workspace.retune(&["resume", "run"]).exited(1).saying(&["review.csv", "changed"]);
    let refused = |content: &str, words: &[&str]| {
        workspace.write("other.csv", &format!("{header}{content}"));
        workspace
            .retune(&["fit", "recipe.toml", "output_dir=no", "--apply-review", "other.csv"])
            .exited(2)
            .saying(words);
    };
    refused(&row("maybe", "", 2), &["other.csv:2", "maybe", "relabel"]);
    refused(&row("relabel", "", 2), &["new_label is empty"]);
    refused(&format!("drop,,{},2,another text\n", label(2)), &["train.csv:2", "review it anew"]);
    refused(&format!("drop,,{},9999,another text\n", label(2)), &["9999"]);
}

#[test]
fn thresholds_are_tuned_on_validation_data_and_belong_to_the_artifact() {
    let workspace = Workspace::new();
    // Two classes, the second rare and named last.
    for name in ["train.csv", "validation.csv", "test.csv"] {
        let text = workspace.read(name);
        workspace.write(name, &text.replace(",animals", ",other").replace(",food", ",other"));
    }
    workspace.fit("run", &["tune_thresholds=f1", "max_steps=4"]);
    let (metrics, config) = (workspace.json("run/metrics.json"), workspace.json("run/config.json"));
    let threshold = config["retune"]["thresholds"]["travel"].as_f64().unwrap();
    assert!(threshold > 0.0 && threshold < 1.0);
    assert_eq!(metrics["thresholds"], config["retune"]["thresholds"]);
    let f1 = |key: &str| metrics[key].as_f64().unwrap();
    assert!(f1("eval_f1") >= f1("eval_f1_untuned_baseline"), "{metrics}");
    // Every prediction is what the threshold says, in the run, in `predict` and in `eval`.
    let predictions = workspace.json_lines("run/predictions/test.jsonl");
    for row in &predictions {
        let is_travel = row["scores"]["travel"].as_f64().unwrap() >= threshold;
        assert_eq!(row["prediction"] == "travel", is_travel, "{row}");
    }
    let predict = ["predict", "--model", "run", "--data", "test.csv", "--output", "answers.jsonl"];
    workspace.retune(&predict).succeeded();
    let answers = workspace.json_lines("answers.jsonl");
    assert!(answers.iter().zip(&predictions).all(|(answer, row)| answer["label"] == row["prediction"]));
    let eval = workspace.retune(&["eval", "run", "--json"]).succeeded();
    let eval: Value = serde_json::from_str(&eval.stdout).unwrap();
    assert_eq!(eval["eval_f1"], metrics["test_f1"]);
    let recipe = workspace.read("recipe.toml").replace("validation = \"validation.csv\"\n", "");
    workspace.write("alone.toml", &recipe);
    let alone = ["fit", "alone.toml", "output_dir=no", "tune_thresholds=f1"];
    workspace.retune(&alone).exited(2).saying(&["tune_thresholds", "validation"]);
}

#[test]
fn augmented_texts_train_resume_and_leave_validation_alone() {
    let workspace = Workspace::new();
    let noise = ["augmentation.word_dropout=0.2", "augmentation.word_swap=0.2", "augmentation.typos=0.05"];
    let fit = |folder: &str, more: &[&str]| workspace.fit(folder, &[&["max_steps=12"], more].concat());
    fit("plain", &[]);
    fit("noisy", &noise);
    fit("again", &noise);
    let weights = |folder: &str| workspace.tensors(&format!("{folder}/model.safetensors"));
    assert_eq!(weights("noisy"), weights("again"));
    assert_ne!(weights("noisy"), weights("plain"));
    // With a frozen backbone the features of validation texts are kept, those of training texts, which change, are not.
    let head = ["strategy.method=head", "num_train_epochs=3", "max_steps=-1"];
    fit("head", &[&noise[..], &head[..2]].concat());
    fit("head-uncached", &[&noise[..], &head[..2], &["feature_cache=off"]].concat());
    assert_eq!(weights("head"), weights("head-uncached"));
    workspace
        .retune(&["fit", "recipe.toml", "output_dir=no", "augmentation.rotation=10"])
        .exited(2)
        .saying(&["pictures"]);
}

#[cfg(unix)]
#[test]
fn paraphrases_of_a_command_stand_for_training_texts_and_are_recorded() {
    let workspace = Workspace::new();
    // Every text backwards, the held-out ones too if they were given; and one that stands in the test file.
    let leaked = workspace.read("test.csv").lines().nth(1).unwrap().split(',').nth(1).unwrap().to_owned();
    workspace.write(
        "mirror.sh",
        &format!(
            "tee asked.jsonl | sed -n 's/.*\"text\":\"\\([^\"]*\\)\".*/{{\"text\":\"\\1\",\"paraphrases\":[\"again \\1\",\"{leaked}\"]}}/p'; echo run >> runs"
        ),
    );
    workspace.write(
        "recipe.toml",
        &format!(
            "{}\n[augmentation]\nparaphrase_command = [\"sh\", \"mirror.sh\"]\n",
            workspace.read("recipe.toml")
        ),
    );
    let options = ["max_steps=6", "save_steps=3"];
    let said = workspace.fit("run", &options);
    assert!(
        said.stderr.contains("60 paraphrases of 60 of 60 training texts")
            && said.stderr.contains("60 that stand in"),
        "{}",
        said.stderr
    );
    let lock = workspace.read("run/recipe.lock.toml");
    assert!(lock.contains("paraphrases/") && lock.contains("mirror.sh"), "{lock}");
    assert!(
        workspace.read("run/report.html").contains("Paraphrases")
            && workspace.read("run/log.jsonl").contains("60 paraphrases")
    );
    let asked = workspace.read("asked.jsonl");
    assert!(asked.lines().count() == 60 && !asked.contains(&leaked));
    // The answer is kept; the same run has the same bits, another one without has others.
    workspace.fit("again", &options);
    workspace.retune(&["resume", "run"]).succeeded();
    assert_eq!(workspace.read("runs").lines().count(), 1);
    let weights = |folder: &str| workspace.tensors(&format!("{folder}/model.safetensors"));
    assert_eq!(weights("run"), weights("again"));
    workspace.fit("plain", &[&options[..], &["augmentation.paraphrase_probability=0"]].concat());
    assert_ne!(weights("run"), weights("plain"));
    workspace.write("p.csv", "text,paraphrase\nnobody wrote this,or that\nnor this,or that\n");
    workspace
        .retune(&["fit", "recipe.toml", "output_dir=no", "augmentation.paraphrases=p.csv"])
        .exited(2)
        .saying(&["p.csv has no paraphrase"]);
    workspace
        .retune(&["fit", "recipe.toml", "output_dir=no", "augmentation.paraphrase_command=[\"false\"]"])
        .exited(2)
        .saying(&["`false` ended with"]);
}

#[test]
fn empty_cells_are_filled_or_their_rows_left_out_as_the_recipe_says_and_counted() {
    let workspace = Workspace::new();
    let train = workspace.read("train.csv");
    let mut rows: Vec<String> = train.lines().map(str::to_owned).collect();
    for line in [3, 5, 8] {
        let cells: Vec<&str> = rows[line].splitn(3, ',').collect();
        rows[line] = format!("{},,{}", cells[0], cells[2].rsplit(',').next().unwrap());
    }
    let ticket = train.lines().next().unwrap().split(',').next().unwrap().to_owned();
    rows[11] = format!(",{}", rows[11].split_once(',').unwrap().1);
    workspace.write("train.csv", &rows.join("\n"));
    workspace.retune(&["fit", "recipe.toml", "max_steps=1"]).exited(3).saying(&["train.csv:4"]);
    let drop = format!("data.drop_missing=[\"{ticket}\"]");
    let said = workspace.fit("run", &["data.fill_missing.message=nothing", &drop, "max_steps=1"]);
    assert!(said.stderr.contains("3 empty cells filled"), "{}", said.stderr);
    assert!(said.stderr.contains("1 row left out"), "{}", said.stderr);
    let started = workspace.json_lines("run/log.jsonl");
    let started = started.iter().find(|event| event["event"] == "run_started").unwrap();
    assert_eq!(started["train_samples"], 59);
    workspace.retune(&["fit", "recipe.toml", "output_dir=no", "data.drop_missing=[\"tickets\"]"]).exited(2);
}

#[test]
fn groups_in_two_files_and_validation_by_time_are_told_and_kept() {
    let workspace = Workspace::new();
    let with = |name: &str, column: &str, value: &dyn Fn(usize) -> String| {
        let text = workspace.read(name);
        let rows = text.lines().enumerate().map(|(index, line)| match index {
            0 => format!("{line},{column}\n"),
            _ => format!("{line},{}\n", value(index)),
        });
        workspace.write(name, &rows.collect::<String>());
    };
    with("train.csv", "author", &|index| format!("author-{}", index % 10));
    with("validation.csv", "author", &|index| format!("writer-{}", index % 7));
    with("test.csv", "author", &|index| format!("author-{}", 8 + index % 5));
    let check =
        workspace.retune(&["data", "check", "recipe.toml", "group_column=author", "--json"]).succeeded();
    let found: Value = serde_json::from_str(&check.stdout).unwrap();
    let findings = found["findings"].as_array().unwrap();
    let leaked: Vec<&Value> = findings.iter().filter(|finding| finding["code"] == "leaked-group").collect();
    assert_eq!(leaked.len(), 1, "{findings:?}");
    assert!(leaked[0]["message"].as_str().unwrap().contains("2 groups"), "{}", leaked[0]);
    assert!(leaked[0]["file"].as_str().unwrap().ends_with("test.csv"), "{}", leaked[0]);

    with("train.csv", "at", &|index| format!("2024-01-{:02}T10:00:00", 1 + (index * 7) % 28));
    let recipe = workspace.read("recipe.toml");
    workspace.write(
        "timed.toml",
        &recipe.replace("validation = \"validation.csv\"", "validation_split = 0.25\ntime_column = \"at\""),
    );
    workspace.retune(&["fit", "timed.toml", "output_dir=timed", "max_steps=1"]).succeeded();
    let latest = workspace.json_lines("timed/predictions/validation.jsonl");
    let times: Vec<&str> = latest.iter().map(|row| row["columns"]["at"].as_str().unwrap()).collect();
    assert!(times.len() >= 15 && times.iter().all(|time| *time >= "2024-01-21"), "{times:?}");
}

#[test]
fn planted_faults_are_found_and_clean_data_raises_no_alarm() {
    let workspace = Workspace::new();
    let codes = |name: &str| -> Vec<(String, Value)> {
        let said = workspace.retune(&["data", "check", name, "--json"]);
        let found: Value = serde_json::from_str(&said.stdout).unwrap();
        let findings = found["findings"].as_array().unwrap().iter();
        findings
            .map(|finding| (finding["code"].as_str().unwrap().to_owned(), finding["line"].clone()))
            .collect()
    };
    let warned = |name: &str| -> Vec<String> {
        let said = workspace.retune(&["data", "check", name, "--json"]).succeeded();
        let found: Value = serde_json::from_str(&said.stdout).unwrap();
        let findings = found["findings"].as_array().unwrap().iter();
        findings.filter(|finding| finding["severity"] != "info").map(Value::to_string).collect()
    };
    assert_eq!(warned("train.csv"), Vec::<String>::new());
    let header = "message,topic\n";
    let write = |name: &str, row: &dyn Fn(usize) -> String| {
        let rows: String = (0..60).map(|index| row(index) + "\n").collect();
        workspace.write(name, &format!("{header}{rows}"));
    };
    let train = workspace.read("train.csv");
    let texts: Vec<&str> = train.lines().skip(1).map(|row| row.split(',').nth(1).unwrap()).collect();
    let topic = |index: usize| ["food", "travel"][index % 2];
    let has = |name: &str, code: &str, line: Value| {
        let found = codes(name);
        assert!(found.contains(&(code.to_owned(), line)), "{code}: {found:?}");
    };
    write("marked.csv", &|index| format!("{} {},{}", texts[index], ["", "zyx"][index % 2], topic(index)));
    has("marked.csv", "marker-in-text", 3.into());
    write("id.csv", &|index| format!("ORD-2024/{index},{}", topic(index)));
    has("id.csv", "id-as-text", Value::Null);
    write("twins.csv", &|index| {
        format!("{},{}", texts[index], if index == 9 { "Food" } else { topic(index + 1) })
    });
    has("twins.csv", "label-twins", 11.into());
    write("garbled.csv", &|index| {
        format!("{}{},{}", texts[index], ["", " cafÃ©"][usize::from(index == 4)], topic(index))
    });
    has("garbled.csv", "mojibake", 6.into());
    write("same.csv", &|index| format!("{} {index},{}", texts[index], "food"));
    has("same.csv", "single-class", Value::Null);
}
