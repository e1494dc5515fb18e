//! Names of resources: `acquisitions/{id}`.

use domain::Invalid;

/// Collection of acquisitions.
pub const ACQUISITIONS: &str = "acquisitions";
/// Collection of calibrations.
pub const CALIBRATIONS: &str = "calibrations";
/// Collection of uploaded arrays.
pub const UPLOADS: &str = "uploads";

/// The id in `name`; refuses anything but `{collection}/{id}` with an id of 1 to 128 characters of a-z, A-Z, 0-9, `-`, `_`.
pub fn id_of_name<'a>(field: &str, collection: &str, name: &'a str) -> Result<&'a str, Invalid> {
    let good = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
    name.strip_prefix(collection)
        .and_then(|rest| rest.strip_prefix('/'))
        .filter(|id| (1..=128).contains(&id.len()) && id.bytes().all(good))
        .ok_or_else(|| {
            Invalid::new(
                field.to_owned(),
                format!("{:?}", shortened(name)),
                format!("{collection}/ID, an ID of 1 to 128 characters of a-z, A-Z, 0-9, -, _"),
            )
        })
}

/// `{collection}/{id}`.
#[must_use]
pub fn name_of_id(collection: &str, id: &str) -> String {
    format!("{collection}/{id}")
}

/// At most 64 characters of a text that goes back in an error.
pub(crate) fn shortened(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
