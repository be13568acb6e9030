//! The configuration file. The input is the file.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;

use crate::config::{Config, ConfigError, KindConfig, Overrides, Place, ResourceConfig, file};
use crate::fence::FenceName;
use crate::resource::sqlite::fences::TableFences;

use super::{Checked, Scratch, hold};

/// A way to read a configuration file.
pub type Reads = fn(&Path, &str) -> Result<Config, ConfigError>;

thread_local! {
    static FOLDER: RefCell<Option<Scratch>> = const { RefCell::new(None) };
}

/// Whether the file asks for something that would leave the scratch folder: a name to look up, a file elsewhere.
fn leaves_the_folder(table: &toml::Table) -> bool {
    let is_looked_up = |name: &str| {
        let text = table.get(name).and_then(toml::Value::as_str).unwrap_or_default();
        let has_port = text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        has_port && text.parse::<std::net::SocketAddr>().is_err() && !text.starts_with("localhost:")
    };
    fn is_elsewhere(value: &toml::Value) -> bool {
        match value {
            toml::Value::String(text) => {
                text.contains("..") || ["/dev", "/proc", "/sys"].iter().any(|start| text.starts_with(start))
            }
            toml::Value::Array(values) => values.iter().any(is_elsewhere),
            toml::Value::Table(table) => table.values().any(is_elsewhere),
            _ => false,
        }
    }
    ["listen", "admin"].into_iter().any(is_looked_up) || table.values().any(is_elsewhere)
}

/// A file is understood, or refused with the place of the mistake in it; and what is understood can be served.
///
/// # Errors
/// How that doesn't hold.
pub fn agrees(reads: Reads, input: &[u8]) -> Checked {
    let Ok(text) = std::str::from_utf8(input) else { return Ok(()) };
    let table = text.strip_prefix('\u{feff}').unwrap_or(text).parse::<toml::Table>();
    if table.as_ref().is_ok_and(leaves_the_folder) {
        return Ok(());
    }
    let read = reads(Path::new("fencegate.toml"), text);
    hold!(table.is_ok() || read.is_err(), "what is no TOML is taken for {read:?}");
    match &read {
        Ok(config) => can_be_served(config),
        Err(error) => has_a_place(error, text),
    }
}

/// The properties of the gate's own reader.
///
/// # Errors
/// How they don't hold.
pub fn check(input: &[u8]) -> Checked {
    agrees(file::parse, input)?;
    let text = std::str::from_utf8(input).ok();
    let table = text.map(|text| text.strip_prefix('\u{feff}').unwrap_or(text).parse::<toml::Table>());
    if table.is_some_and(|table| table.as_ref().is_ok_and(leaves_the_folder)) {
        return Ok(());
    }
    FOLDER.with_borrow_mut(|folder| {
        let folder = folder.get_or_insert_with(|| Scratch::new("config"));
        let path = folder.0.join("fencegate.toml");
        std::fs::write(&path, input).map_err(|error| error.to_string())?;
        // What `serve` and `check-config` begin with.
        let whole = Config::from_file(&path, &Overrides::default());
        let Some(text) = text else {
            let place = whole.err().map(|error| error.place);
            hold!(matches!(place, Some(Place::File(..))), "a file that is no text has {place:?}");
            return Ok(());
        };
        match (file::parse(&path, text), whole) {
            (Ok(read), Ok(whole)) => hold!(format!("{read:?}") == format!("{whole:?}"), "{whole:?}\nfrom a file"),
            (Err(read), Err(whole)) => hold!(read == whole, "{read}\nis, from a file, {whole}"),
            // That listeners are open to others is judged when flags have been looked at.
            (Ok(_), Err(whole)) => {
                hold!(whole.message.contains("is open to other machines"), "only from a file: {whole}");
            }
            (Err(read), Ok(_)) => return Err(format!("a file is taken that is wrong: {read}")),
        }
        Ok(())
    })
}

/// A mistake is told in one line, with its place in the file; or of the file as a whole, where it is nowhere in it.
fn has_a_place(error: &ConfigError, text: &str) -> Checked {
    let message = &error.message;
    hold!(!message.is_empty() && !message.contains('\n'), "a mistake is told in no line or several: {message:?}");
    match &error.place {
        Place::File(_, line, column) => {
            let text = text.strip_prefix('\u{feff}').unwrap_or(text);
            let found = text.split('\n').nth(line.wrapping_sub(1));
            let is_there = found.is_some_and(|line| (1..=line.chars().count() + 1).contains(column));
            hold!(is_there, "a mistake is told of {line}:{column}, where nothing is: {message}");
        }
        Place::Whole(_) => {
            let is_nowhere = ["there is no [[resource]]", "a principal has a certificate, but no listener"];
            hold!(is_nowhere.iter().any(|start| message.starts_with(start)), "a mistake has no place: {message}");
        }
        Place::Flag => return Err(format!("a mistake in a file is told of a flag: {message}")),
    }
    Ok(())
}

/// What `serve` asks of a configuration before it looks at the machine.
fn can_be_served(config: &Config) -> Checked {
    hold!(!config.resources.is_empty(), "there is no resource");
    let (mut names, mut paths, mut fences) = (HashSet::new(), HashSet::new(), HashSet::new());
    for ResourceConfig { name, path, kind, .. } in &config.resources {
        hold!(names.insert(name), "two resources are called {name}");
        hold!(paths.insert(path), "two resources are at {path}");
        hold!(path == "/" || path.starts_with('/') && !path.ends_with('/'), "{path} is no mount point");
        hold!(path != "/-" && !path.starts_with("/-/"), "{path} is the gate's own");
        if let KindConfig::Sqlite(sqlite) = kind {
            let all = TableFences::new(sqlite.fence.clone(), &sqlite.tables);
            let all = all.ok_or_else(|| format!("resource {name} has more fences than a database can have"))?;
            for fence in all.names() {
                hold!(fences.insert(fence.to_string()), "two resources have fence {fence}");
            }
        }
    }
    let services = config.resources.iter().filter_map(|resource| match &resource.kind {
        KindConfig::Http(http) => Some((&resource.name, &http.fence)),
        KindConfig::Sqlite(_) => None,
    });
    let services: Vec<_> = services.collect();
    for (number, (name, template)) in services.iter().enumerate() {
        let taken = fences.iter().find(|fence| template.owns(fence));
        hold!(taken.is_none(), "{name} has fence {taken:?} of a database");
        let other = services[..number].iter().find(|(_, other)| template.overlaps(other));
        hold!(other.is_none(), "{name} and {other:?} can have one fence");
        let fixed = template.fixed().map(FenceName::as_str);
        hold!(fixed.is_none_or(|fixed| template.owns(fixed)), "{name} doesn't have its own fence");
    }
    Ok(())
}
