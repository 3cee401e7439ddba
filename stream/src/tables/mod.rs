//! Dimension tables: what is known of users, content and services, joined to their events.
//!
//! A version of a table is one immutable file, durable before any journal entry names it, so
//! that a replay enriches with the rows of that time. The event's own value wins; a table only
//! fills what the event lacks. A corrected table holds from the next entry on; what was counted
//! before is corrected by a new base.

mod book;
mod parse;
pub use book::TableBook;
pub(crate) use book::inspect;
pub use parse::{parse_csv, parse_ndjson};

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use nilometer_event::Event;
use serde::{Deserialize, Serialize};

use crate::error::DimensionTableError;

/// Columns that a table may have, the key included.
pub const COLUMNS_MAX: usize = 64;

/// Bytes of one value: the limit of an event's strings.
pub const VALUE_BYTES_MAX: usize = 8 << 10;

/// The tables that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableName {
    /// By `user_id`; fills `country`, `device_type`, `subscription_tier`, `cohort`, `channel`.
    Users,
    /// By `content_id`; fills `content_category` (also from a column `category`).
    Content,
    /// By `service_name`; fills `country`, `app_version`, `channel`, `cohort`.
    Services,
}

impl TableName {
    /// Every table, in the order of [`TableVersions`].
    pub const ALL: [Self; 3] = [Self::Users, Self::Content, Self::Services];

    /// As paths and files call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Content => "content",
            Self::Services => "services",
        }
    }

    /// The table of that name.
    ///
    /// # Errors
    ///
    /// [`DimensionTableError::NoSuchTable`].
    pub fn from_name(name: &str) -> Result<Self, DimensionTableError> {
        Self::ALL
            .into_iter()
            .find(|table| table.name() == name)
            .ok_or_else(|| DimensionTableError::NoSuchTable { name: name.to_owned() })
    }

    const fn index(self) -> usize {
        match self {
            Self::Users => 0,
            Self::Content => 1,
            Self::Services => 2,
        }
    }

    /// The field of an event that a column of this name fills, where it fills one.
    #[must_use]
    pub fn field_of(self, column: &str) -> Option<&'static str> {
        let mut fills = self.fills().iter().map(|(_, columns)| columns);
        // A field's own name comes first.
        fills.find(|columns| columns.contains(&column)).map(|columns| columns[0])
    }

    /// The fields of an event that this table fills, with the columns that fill each.
    const fn fills(self) -> &'static [(Fill, &'static [&'static str])] {
        match self {
            Self::Users => &[
                (Fill::Country, &["country"]),
                (Fill::DeviceType, &["device_type"]),
                (Fill::SubscriptionTier, &["subscription_tier"]),
                (Fill::Cohort, &["cohort"]),
                (Fill::Channel, &["channel"]),
            ],
            Self::Content => &[(Fill::ContentCategory, &["content_category", "category"])],
            Self::Services => &[
                (Fill::Country, &["country"]),
                (Fill::AppVersion, &["app_version"]),
                (Fill::Cohort, &["cohort"]),
                (Fill::Channel, &["channel"]),
            ],
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A field that a table can fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fill {
    Country,
    DeviceType,
    ContentCategory,
    AppVersion,
    SubscriptionTier,
    Cohort,
    Channel,
}

/// Which version of each table of [`TableName::ALL`] is meant; 0 is no table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableVersions(pub [u64; TableName::ALL.len()]);

impl TableVersions {
    /// The version of `table`; 0 is none.
    #[must_use]
    pub const fn of(&self, table: TableName) -> u64 {
        self.0[table.index()]
    }
}

/// The rows of a table: the first column is the key, every value is text or missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Names of the columns, the key first.
    pub columns: Vec<String>,
    /// One value a column.
    pub rows: Vec<Vec<Option<String>>>,
}

/// One version of one table, ready to be joined.
#[derive(Debug)]
pub struct Table {
    name: TableName,
    version: u64,
    rows: Rows,
    by_key: HashMap<Box<str>, usize>,
    /// Field filled, and the column that fills it.
    fills: Vec<(Fill, usize)>,
}

impl Table {
    /// Checks the rows and indexes them.
    ///
    /// # Errors
    ///
    /// [`DimensionTableError`] that names row and column.
    pub fn new(name: TableName, version: u64, rows: Rows) -> Result<Self, DimensionTableError> {
        check_columns(&rows.columns)?;
        let mut by_key = HashMap::with_capacity(rows.rows.len());
        for (index, row) in rows.rows.iter().enumerate() {
            let key = check_row(&rows.columns, row, index + 1)?;
            if let Some(first) = by_key.insert(key.into(), index) {
                let key = key.to_owned();
                return Err(DimensionTableError::RepeatedKey {
                    row: index + 1,
                    first: first + 1,
                    key,
                });
            }
        }
        let column = |names: &[&str]| {
            names.iter().find_map(|name| {
                rows.columns.iter().skip(1).position(|column| column == name).map(|at| at + 1)
            })
        };
        let fills = name
            .fills()
            .iter()
            .filter_map(|(fill, names)| column(names).map(|at| (*fill, at)))
            .collect();
        Ok(Self { name, version, rows, by_key, fills })
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> TableName {
        self.name
    }

    /// Its version, counted from 1.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Its rows, as they were put.
    #[must_use]
    pub const fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Fills what `event` lacks and its row has.
    fn fill<'a>(&'a self, key: Option<&str>, event: &mut Event<'a>) {
        let Some(&row) = key.and_then(|key| self.by_key.get(key)) else { return };
        for &(fill, column) in &self.fills {
            let field = match fill {
                Fill::Country => &mut event.country,
                Fill::DeviceType => &mut event.device_type,
                Fill::ContentCategory => &mut event.content_category,
                Fill::AppVersion => &mut event.app_version,
                Fill::SubscriptionTier => &mut event.subscription_tier,
                Fill::Cohort => &mut event.cohort,
                Fill::Channel => &mut event.channel,
            };
            if field.is_none() {
                *field = self.rows.rows[row][column].as_deref();
            }
        }
    }
}

/// One version of every table: what one journal entry is enriched with.
#[derive(Clone, Debug, Default)]
pub struct Tables([Option<Arc<Table>>; TableName::ALL.len()]);

impl Tables {
    /// Of these tables.
    #[must_use]
    pub const fn new(tables: [Option<Arc<Table>>; TableName::ALL.len()]) -> Self {
        Self(tables)
    }

    /// The versions of these tables.
    #[must_use]
    pub fn versions(&self) -> TableVersions {
        let version = |table: &Option<Arc<Table>>| table.as_ref().map_or(0, |table| table.version);
        TableVersions([version(&self.0[0]), version(&self.0[1]), version(&self.0[2])])
    }

    /// The table, where there is one.
    #[must_use]
    pub const fn table(&self, name: TableName) -> Option<&Arc<Table>> {
        self.0[name.index()].as_ref()
    }

    /// Gives the event what it lacks: users by `user_id`, then content, then services.
    pub fn enrich<'a>(&'a self, event: &mut Event<'a>) {
        let (user, content, service) = (event.user_id, event.content_id, event.service_name);
        for (name, key) in [
            (TableName::Users, user),
            (TableName::Content, content),
            (TableName::Services, service),
        ] {
            if let Some(table) = self.table(name) {
                table.fill(key, event);
            }
        }
    }
}

fn check_columns(columns: &[String]) -> Result<(), DimensionTableError> {
    if columns.is_empty() {
        return Err(DimensionTableError::NoColumns);
    }
    if columns.len() > COLUMNS_MAX {
        return Err(DimensionTableError::TooManyColumns {
            columns: columns.len(),
            columns_max: COLUMNS_MAX,
        });
    }
    for (index, column) in columns.iter().enumerate() {
        if columns[..index].contains(column) {
            return Err(DimensionTableError::RepeatedColumn { column: column.clone() });
        }
    }
    Ok(())
}

/// Checks one row and gives its key.
fn check_row<'a>(
    columns: &[String],
    row: &'a [Option<String>],
    number: usize,
) -> Result<&'a str, DimensionTableError> {
    if row.len() != columns.len() {
        return Err(DimensionTableError::Width {
            row: number,
            found: row.len(),
            expected: columns.len(),
        });
    }
    for (column, value) in columns.iter().zip(row) {
        let bytes = value.as_ref().map_or(0, String::len);
        if bytes > VALUE_BYTES_MAX {
            return Err(DimensionTableError::TooLong {
                row: number,
                column: column.clone(),
                bytes,
                bytes_max: VALUE_BYTES_MAX,
            });
        }
    }
    match row.first() {
        Some(Some(key)) if !key.is_empty() => Ok(key),
        _ => Err(DimensionTableError::NoKey { row: number, column: columns[0].clone() }),
    }
}

#[cfg(test)]
mod tests;
