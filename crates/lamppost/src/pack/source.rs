//! The files of a pack and where in them a mistake is.

use std::{
    fmt, fs,
    io::Read as _,
    ops::Range,
    path::{Path, PathBuf},
};

use crate::config::layers::line_of;

/// The most that one file of a pack may hold.
const FILE_BYTES: u64 = 64 << 20;
/// Bytes of a file that are looked at together when it is only hashed.
const PIECE: usize = 64 << 10;

/// A mistake in a pack: the file (relative to the pack), the line where one is known, the field and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    pub file: String,
    /// 1-based; 0 when the mistake is about the whole file.
    pub line: usize,
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message),
            line => write!(f, "{}:{line}: {}", self.file, self.message),
        }
    }
}

/// One text file of the pack.
#[derive(Debug)]
pub struct Source {
    /// Relative to the pack, with `/`.
    pub name: String,
    pub text: String,
}

impl Source {
    pub fn mistake(&self, at: &Range<usize>, message: impl Into<String>) -> Mistake {
        Mistake { file: self.name.clone(), line: line_of(&self.text, at.start), message: message.into() }
    }
    /// Reads the whole file as `T`; what is wrong is named by line.
    pub fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, Mistake> {
        toml::from_str(&self.text).map_err(|e| match e.span() {
            Some(span) => self.mistake(&span, e.message()),
            None => Mistake { file: self.name.clone(), line: 0, message: e.message().to_owned() },
        })
    }
}

/// A pack's folder. Every path that a pack names stays inside it.
#[derive(Clone, Debug)]
pub struct Folder {
    pub root: PathBuf,
}

impl Folder {
    pub fn read(&self, name: &str) -> Result<Source, Mistake> {
        self.bytes(name).and_then(|bytes| match String::from_utf8(bytes) {
            Ok(text) => Ok(Source { name: name.to_owned(), text: text.trim_start_matches('\u{feff}').to_owned() }),
            Err(_) => Err(whole(name, "is not UTF-8 text")),
        })
    }

    pub fn bytes(&self, name: &str) -> Result<Vec<u8>, Mistake> {
        let length = self.length(name)?;
        if length > FILE_BYTES {
            return Err(whole(name, format!("has {length} bytes; {FILE_BYTES} are allowed")));
        }
        fs::read(self.root.join(name)).map_err(|e| whole(name, format!("cannot be read: {e}")))
    }

    /// Bytes of a file.
    pub fn length(&self, name: &str) -> Result<u64, Mistake> {
        let plain = |c: std::path::Component<'_>| matches!(c, std::path::Component::Normal(_));
        if name.is_empty() || !Path::new(name).components().all(plain) {
            return Err(whole(name, "is not a path inside the pack"));
        }
        let known = fs::metadata(self.root.join(name)).map_err(|e| whole(name, format!("cannot be read: {e}")))?;
        // A device or a pipe has no length and no end.
        if !known.is_file() {
            return Err(whole(name, "is not a file"));
        }
        Ok(known.len())
    }

    /// Hands out a file piece by piece.
    pub fn each(&self, name: &str, mut piece: impl FnMut(&[u8])) -> Result<(), Mistake> {
        let failed = |e: std::io::Error| whole(name, format!("cannot be read: {e}"));
        self.length(name)?;
        let mut file = fs::File::open(self.root.join(name)).map_err(failed)?;
        let mut buffer = vec![0; PIECE];
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => return Ok(()),
                n => piece(&buffer[..n]),
            }
        }
    }

    /// Files directly in `folder` with this ending, by name; none when there is no such folder.
    pub fn list(&self, folder: &str, ending: &str) -> Result<Vec<String>, Mistake> {
        let entries = match fs::read_dir(self.root.join(folder)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(whole(folder, format!("cannot be read: {e}"))),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(|e| whole(folder, format!("cannot be read: {e}")))?.file_name();
            match name.to_str() {
                Some(name) if name.ends_with(ending) => names.push(format!("{folder}/{name}")),
                Some(_) => {}
                None => return Err(whole(folder, "holds a file whose name is not UTF-8")),
            }
        }
        names.sort();
        Ok(names)
    }
}

pub fn whole(file: &str, message: impl Into<String>) -> Mistake {
    Mistake { file: file.to_owned(), line: 0, message: message.into() }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_pack_reads_files_and_only_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let pack = Folder { root: folder.path().to_owned() };
        fs::write(folder.path().join("good.toml"), "\u{feff}a = 1").unwrap();
        fs::write(folder.path().join("bytes.toml"), [0xff, 0xfe]).unwrap();
        fs::create_dir(folder.path().join("things")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.path().join("endless.toml")).unwrap();
        File::create(folder.path().join("large.toml")).unwrap().set_len(FILE_BYTES + 1).unwrap();
        assert_eq!(pack.read("good.toml").unwrap().text, "a = 1");
        for (name, expect) in [
            ("../secret", "is not a path inside the pack"),
            ("/etc/passwd", "is not a path inside the pack"),
            ("things/../../x", "is not a path inside the pack"),
            ("", "is not a path inside the pack"),
            ("things", "is not a file"),
            ("endless.toml", "is not a file"),
            ("bytes.toml", "is not UTF-8 text"),
            ("large.toml", "bytes; 67108864 are allowed"),
            ("nothing.toml", "cannot be read"),
            ("a\0b", "cannot be read"),
        ] {
            let mistake = pack.read(name).unwrap_err();
            assert!(mistake.message.contains(expect), "{name}: {mistake}");
        }
    }

    #[test]
    fn text_that_is_made_to_hurt_is_a_mistake_with_a_line() {
        let nested = format!("a = {}{}", "[".repeat(200_000), "]".repeat(200_000));
        let tables = format!("[{}]", vec!["a"; 100_000].join("."));
        for text in [nested, tables, "a = \"\\ud800\"".to_owned(), "a = 1\na = 2".to_owned(), "\0".to_owned()] {
            let source = Source { name: "x.toml".to_owned(), text };
            let mistake = source.parse::<toml::Table>().unwrap_err();
            assert!(mistake.message.len() < 10_000, "a mistake is a sentence");
        }
    }
}
