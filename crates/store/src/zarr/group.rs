//! Groups and attributes.

use super::write_whole;
use crate::Error;
use serde_json::{Map, Value, json};
use std::fs;
use std::io;
use std::path::Path;

const GROUP: &str = ".zgroup";
const ATTRIBUTES: &str = ".zattrs";
const ARRAY: &str = ".zarray";

/// Makes `directory` a group.
pub(crate) fn group(directory: &Path) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(Error::io(directory))?;
    let path = directory.join(GROUP);
    if path.exists() {
        return Ok(());
    }
    write_whole(&path, &text(&json!({"zarr_format": 2})))
}

pub(super) fn text(value: &Value) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("JSON values have text keys")
}

/// Writes the attributes of a group or array.
pub(crate) fn write_attributes(directory: &Path, attributes: &Value) -> Result<(), Error> {
    write_whole(&directory.join(ATTRIBUTES), &text(attributes))
}

/// The attributes of a group or array; empty where it has none.
pub(crate) fn read_attributes(directory: &Path) -> Result<Value, Error> {
    read_json(&directory.join(ATTRIBUTES)).map(Option::unwrap_or_default)
}

pub(super) fn read_json(path: &Path) -> Result<Option<Value>, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path)(e)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| Error::Format {
            path: path.to_owned(),
            field: "metadata",
            found: e.to_string(),
            expected: "JSON",
        })
}

/// Writes a tree of metadata as HyperSpy keeps it: objects become groups, the rest attributes.
pub(crate) fn write_tree(directory: &Path, tree: &Map<String, Value>) -> Result<(), Error> {
    group(directory)?;
    let mut attributes = Map::new();
    for (key, value) in tree {
        match value {
            Value::Object(inner) => write_tree(&directory.join(key), inner)?,
            Value::Null => {
                attributes.insert(key.clone(), json!("_None_"));
            }
            Value::Array(values) if values.is_empty() => {
                attributes.insert(format!("_list_empty_{key}"), json!("_None_"));
            }
            // Lists may be ragged or mixed; as text they survive every reader.
            Value::Array(_) => {
                attributes.insert(key.clone(), Value::String(value.to_string()));
            }
            _ => {
                attributes.insert(key.clone(), value.clone());
            }
        }
    }
    write_attributes(directory, &Value::Object(attributes))
}

/// Syncs everything below `root`, then writes `.zmetadata`: every piece of metadata in one file.
pub(crate) fn consolidate(root: &Path) -> Result<(), Error> {
    let mut metadata = Map::new();
    collect(root, "", &mut metadata)?;
    let all = json!({"metadata": metadata, "zarr_consolidated_format": 1});
    super::sync_tree(root)?;
    super::write_durably(&root.join(".zmetadata"), &text(&all))
}

fn collect(directory: &Path, prefix: &str, found: &mut Map<String, Value>) -> Result<(), Error> {
    for name in [GROUP, ARRAY, ATTRIBUTES] {
        if let Some(value) = read_json(&directory.join(name))? {
            found.insert(format!("{prefix}{name}"), value);
        }
    }
    // Below an array there are only chunks.
    if directory.join(ARRAY).exists() {
        return Ok(());
    }
    for entry in fs::read_dir(directory).map_err(Error::io(directory))? {
        let entry = entry.map_err(Error::io(directory))?;
        let name = entry.file_name();
        if let (Some(name), true) = (name.to_str(), entry.path().is_dir()) {
            collect(&entry.path(), &format!("{prefix}{name}/"), found)?;
        }
    }
    Ok(())
}
