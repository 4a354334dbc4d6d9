//! HTTP as the hub speaks it: redirects followed by hand (its headers stand on the first answer, and the token must
//! not travel on to another host), ranges to resume, and a bound on every wait.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body, Proxy};

use crate::atomic::ensure_space;
use crate::error::{Bytes, shorten};
use crate::hash::hash_file;

/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 10;

/// Times a download is taken up again after it broke off.
const MAX_RESUMES: usize = 4;

/// Longest silence in the middle of a download.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest answer read into memory.
const MAX_ANSWER_BYTES: u64 = 16 << 20;

/// Why a request failed, and whether asking again could help.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: String,
    pub(super) again: bool,
}

impl Failure {
    fn fatal(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), again: false }
    }
}

/// What the hub says of a file before sending it.
#[derive(Debug)]
pub(super) struct FileFacts {
    pub(super) size: Option<u64>,
    /// Known for large files only; small ones are identified by a git hash.
    pub(super) sha256: Option<String>,
    etag: String,
}

pub(super) struct Client<'a> {
    agent: Agent,
    endpoint: &'a str,
    token: Option<&'a str>,
    connect_timeout: Duration,
}

impl<'a> Client<'a> {
    pub(super) fn new(endpoint: &'a str, token: Option<&'a str>, connect_timeout: Duration) -> Self {
        // No proxy can reach this machine's own addresses.
        let host = origin(endpoint).rsplit("//").next().unwrap_or_default();
        let loopback = host.starts_with("127.") || host.starts_with("localhost") || host.starts_with("[::1]");
        let proxy = if loopback { None } else { Proxy::try_from_env() };
        let config = Agent::config_builder()
            .proxy(proxy)
            .accept_encoding("identity")
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_resolve(Some(connect_timeout))
            .timeout_connect(Some(connect_timeout))
            .timeout_recv_response(Some(connect_timeout))
            .timeout_per_read(Some(STALL_TIMEOUT))
            .user_agent(concat!("retune/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: Agent::new_with_config(config), endpoint, token, connect_timeout }
    }

    /// The body of a small answer.
    pub(super) fn text(&self, path: &str) -> Result<String, Failure> {
        let (mut response, _) = self.follow(path, false, 0)?;
        let body = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_string();
        body.map_err(|error| self.failure(&error))
    }

    /// Size and checksum of a file, without its content.
    pub(super) fn facts(&self, path: &str) -> Result<FileFacts, Failure> {
        let (response, hops) = self.follow(path, true, 0)?;
        let headers: Vec<&HeaderMap> = hops.iter().chain([response.headers()]).collect();
        let first = |name: &str| headers.iter().find_map(|headers| text_of(headers, name));
        let etag = first("x-linked-etag").or_else(|| text_of(response.headers(), "etag")).unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
        let size = first("x-linked-size").or_else(|| text_of(response.headers(), "content-length"));
        let is_sha256 = etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        Ok(FileFacts {
            size: size.and_then(|size| size.parse().ok()),
            sha256: is_sha256.then(|| etag.to_lowercase()),
            etag,
        })
    }

    /// Downloads a file to `target`, taking up a partial download where it broke off, and verifies it.
    pub(super) fn download(
        &self,
        path: &str,
        facts: &FileFacts,
        target: &Path,
        on_message: &mut dyn FnMut(&str),
    ) -> Result<(), Failure> {
        let fatal = |error: &dyn std::fmt::Display| Failure::fatal(error.to_string());
        // The etag in the name keeps the rest of one version from being put behind the start of another.
        let tag: String = facts.etag.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
        let partial = target.with_added_extension(format!("{tag}.part"));
        if let Some(size) = facts.size {
            let there = partial.metadata().map_or(0, |metadata| metadata.len());
            ensure_space(target, size.saturating_sub(there)).map_err(|error| fatal(&error))?;
        }
        let mut resumes = 0;
        loop {
            match self.continue_download(path, facts, &partial, on_message) {
                Ok(()) => break,
                Err(failure) if failure.again && resumes < MAX_RESUMES => {
                    resumes += 1;
                    on_message(&format!("{}; taking it up again", failure.reason));
                    std::thread::sleep(Duration::from_millis(100 << resumes));
                }
                Err(failure) => return Err(failure),
            }
        }
        let found = hash_file(&partial).map_err(|error| fatal(&error))?;
        let wrong = match (facts.size, &facts.sha256) {
            (Some(size), _) if size != found.size => Some(format!("{} bytes instead of {size}", found.size)),
            (_, Some(sha256)) if *sha256 != found.sha256 => {
                Some(format!("sha256 {} instead of {sha256}", found.sha256))
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            let _ = std::fs::remove_file(&partial);
            return Err(Failure::fatal(format!("{path} arrived damaged: {wrong}")));
        }
        std::fs::rename(&partial, target).map_err(|error| fatal(&error))
    }

    /// Appends to `partial` what it lacks.
    fn continue_download(
        &self,
        path: &str,
        facts: &FileFacts,
        partial: &Path,
        on_message: &mut dyn FnMut(&str),
    ) -> Result<(), Failure> {
        let fatal = |error: io::Error| Failure::fatal(format!("cannot write {}: {error}", partial.display()));
        let mut there = partial.metadata().map_or(0, |metadata| metadata.len());
        if facts.size.is_some_and(|size| there > size) {
            std::fs::remove_file(partial).map_err(fatal)?;
            there = 0;
        }
        if there > 0 && facts.size == Some(there) {
            return Ok(());
        }
        // Once something has arrived, a lost connection is worth another try.
        let (mut response, _) = self
            .follow(path, false, there)
            .map_err(|failure| Failure { again: failure.again || there > 0, ..failure })?;
        let resumed = there > 0 && response.status() == 206 && starts_at(response.headers(), there);
        if there > 0 && response.status() == 206 && !resumed {
            std::fs::remove_file(partial).map_err(fatal)?;
            return Err(Failure {
                reason: format!("{path}: the hub sent another range than asked for"),
                again: true,
            });
        }
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .append(resumed)
            .truncate(!resumed)
            .open(partial)
            .map_err(fatal)?;
        let mut received = if resumed { there } else { 0 };
        let mut progress = Progress::new(path, facts.size, received);
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0; 1 << 17];
        loop {
            let count = match body.read(&mut buffer) {
                Ok(count) => count,
                Err(error) => {
                    let reason = format!("{path} broke off after {}: {error}", Bytes(received));
                    return Err(Failure { reason, again: true });
                }
            };
            if count == 0 {
                break;
            }
            received += count as u64;
            if facts.size.is_some_and(|size| received > size) {
                return Err(Failure::fatal(format!(
                    "{path} is longer than the {} announced",
                    Bytes(received)
                )));
            }
            file.write_all(&buffer[..count]).map_err(fatal)?;
            progress.update(received, on_message);
        }
        file.sync_all().map_err(fatal)?;
        match facts.size {
            Some(size) if received < size => {
                let reason = format!("{path} broke off after {} of {}", Bytes(received), Bytes(size));
                Err(Failure { reason, again: true })
            }
            _ => Ok(()),
        }
    }

    /// Sends a request and follows redirects. Returns the last answer, and the headers of those before it.
    fn follow(&self, path: &str, head: bool, from: u64) -> Result<(Response<Body>, Vec<HeaderMap>), Failure> {
        let mut url = format!("{}{path}", self.endpoint);
        let mut hops = Vec::new();
        for _ in 0..MAX_REDIRECTS {
            let mut request = if head { self.agent.head(&url) } else { self.agent.get(&url) };
            if from > 0 {
                request = request.header("Range", format!("bytes={from}-"));
            }
            if let Some(token) = self.token.filter(|_| origin(&url) == origin(self.endpoint)) {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let response = request.call().map_err(|error| self.failure(&error))?;
            let status = response.status().as_u16();
            match status {
                200 | 206 => return Ok((response, hops)),
                301 | 302 | 303 | 307 | 308 => {
                    url = redirect_target(&url, response.headers())?;
                    // A large file's facts stand on the redirect itself.
                    if head && response.headers().contains_key("x-linked-etag") {
                        return Ok((response, hops));
                    }
                    hops.push(response.headers().clone());
                }
                _ => return Err(self.refused(path, status, response.headers())),
            }
        }
        Err(Failure::fatal(format!("{path}: more than {MAX_REDIRECTS} redirects")))
    }

    fn failure(&self, error: &ureq::Error) -> Failure {
        let reason = match error {
            ureq::Error::Timeout(_) => {
                format!("no connection or no answer within {} s", self.connect_timeout.as_secs_f32())
            }
            ureq::Error::HostNotFound => "no connection: the host's name cannot be looked up".to_owned(),
            ureq::Error::ConnectionFailed => "no connection".to_owned(),
            ureq::Error::Io(error) => format!("no connection: {error}"),
            other => other.to_string(),
        };
        Failure { reason, again: false }
    }

    fn refused(&self, path: &str, status: u16, headers: &HeaderMap) -> Failure {
        let said = text_of(headers, "x-error-message")
            .map(|text| format!(" ({})", shorten(&text)))
            .unwrap_or_default();
        let token = match self.token {
            Some(_) => "the token in use has no access",
            None => "set HF_TOKEN after accepting its terms on the hub",
        };
        let reason = match status {
            401 | 403 => {
                format!("HTTP {status}{said}: the model is gated or private, or doesn't exist; {token}")
            }
            404 => format!("HTTP 404{said}: there is no {path}"),
            429 => format!("HTTP 429{said}: too many requests; wait a little"),
            _ => format!("HTTP {status}{said} for {path}"),
        };
        Failure { reason, again: status >= 500 }
    }
}

/// Says how far a large download is, at every quarter.
struct Progress<'a> {
    name: &'a str,
    size: u64,
    next_quarter: u64,
}

impl<'a> Progress<'a> {
    /// Files below this size come without progress.
    const WORTH_SAYING: u64 = 20_000_000;

    fn new(path: &'a str, size: Option<u64>, received: u64) -> Self {
        let name = path.rsplit('/').next().unwrap_or(path);
        let size = size.unwrap_or(0);
        Self { name, size, next_quarter: (received * 4).checked_div(size).map_or(0, |quarter| quarter + 1) }
    }

    fn update(&mut self, received: u64, on_message: &mut dyn FnMut(&str)) {
        if self.size < Self::WORTH_SAYING || received * 4 < self.next_quarter * self.size {
            return;
        }
        let quarter = received * 4 / self.size;
        on_message(&format!("{}: {}% of {}", self.name, quarter * 25, Bytes(self.size)));
        self.next_quarter = quarter + 1;
    }
}

fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// Whether `Content-Range: bytes START-...` starts at `position`.
fn starts_at(headers: &HeaderMap, position: u64) -> bool {
    text_of(headers, "content-range")
        .and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok())
        .is_some_and(|start: u64| start == position)
}

/// Scheme, host and port of an address.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |scheme| scheme + 3);
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |end| host + end);
    &url[..end]
}

fn redirect_target(url: &str, headers: &HeaderMap) -> Result<String, Failure> {
    let location = text_of(headers, "location").unwrap_or_default();
    let target = if location.starts_with("//") {
        let scheme = url.split("//").next().unwrap_or_default();
        format!("{scheme}{location}")
    } else if location.starts_with('/') {
        format!("{}{location}", origin(url))
    } else {
        location
    };
    let secure = target.starts_with("https://");
    if secure || (target.starts_with("http://") && url.starts_with("http://")) {
        return Ok(target);
    }
    Err(Failure::fatal(format!("redirected to `{}`, which is not a safe address", shorten(&target))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_on_the_host_or_name_a_secure_one() {
        let target = |from: &str, location: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("location", location.parse().unwrap());
            redirect_target(from, &headers).ok()
        };
        assert_eq!(target("https://hub/a/b", "/c?d").as_deref(), Some("https://hub/c?d"));
        assert_eq!(target("https://hub/a", "https://cdn/x").as_deref(), Some("https://cdn/x"));
        assert_eq!(target("https://hub/a", "//cdn/x").as_deref(), Some("https://cdn/x"));
        assert_eq!(target("https://hub/a", "http://cdn/x"), None);
        assert_eq!(target("http://hub/a", "file:///etc/passwd"), None);
        assert_eq!(origin("https://hub:8080?x"), "https://hub:8080");
    }
}
