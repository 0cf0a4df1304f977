//! Import a CSV: row by row, with progress; a bad row is logged with its line and does not stop the others.

use std::{collections::HashSet, fs, io, thread, time::Duration};

use axum::{
    extract::{Multipart, State},
    response::Redirect,
};
use axum_taskflow::{Data, Failure, LogLevel, TaskContext, task};
use csv::{ByteRecord, ReaderBuilder, Trim};
use lettre::Address;
use serde::{Deserialize, Serialize};

use crate::{
    App,
    folders::{Folders, write_whole},
    page::{self, FormName, Problem, Values},
    upload,
};

/// The largest file, in bytes.
pub(crate) const CSV_BYTES_MAX: usize = 10 * 1024 * 1024;
/// How long a row takes if somebody wants to watch.
const SLOW_ROW: Duration = Duration::from_millis(200);

/// What came of an import.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) rows: u64,
    pub(crate) imported: u64,
    pub(crate) bad: u64,
    /// Rows whose address an earlier row had.
    pub(crate) repeated: u64,
}

/// Imports contacts from an uploaded file with the columns `name` and `email`.
///
/// The contacts are written at the end in one step, so an interrupted import may simply begin again.
#[task(requeue_on_interrupt = true)]
pub(crate) fn import_contacts(
    ctx: TaskContext,
    Data(folders): Data<Folders>,
    upload: String,
    slowly: bool,
) -> Result<Report, Failure> {
    let content = match fs::read(folders.uploads.join(upload)) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::give_up("the uploaded file is gone"));
        }
        Err(error) => return Err(error.into()),
    };

    let (report, contacts) = import(
        &ctx,
        &content,
        if slowly { SLOW_ROW } else { Duration::ZERO },
    )?;

    write_whole(
        &folders.contacts.join(format!("{}.csv", ctx.id())),
        &contacts,
    )?;
    ctx.progress(1.0, "");
    Ok(report)
}

/// Reads every row and gives back the good ones as CSV.
fn import(
    ctx: &TaskContext,
    content: &[u8],
    pause: Duration,
) -> Result<(Report, Vec<u8>), Failure> {
    let mut rows = ReaderBuilder::new()
        .delimiter(delimiter(content))
        .trim(Trim::All)
        // A row with too many or too few fields is a bad row, not the end of the file.
        .flexible(true)
        .from_reader(content);
    let columns = Columns::find(rows.byte_headers()?)?;

    let mut report = Report::default();
    let mut seen = HashSet::new();
    let mut contacts = csv::Writer::from_writer(Vec::new());
    contacts.write_record(["name", "email"])?;
    let mut row = ByteRecord::new();
    while rows.read_byte_record(&mut row)? {
        if ctx.is_cancelled() {
            return Err(Failure::retry(
                "stopped between two rows; nothing was imported",
            ));
        }
        report.rows += 1;
        let (line, byte) = row.position().map_or((0, 0), |at| (at.line(), at.byte()));
        match columns.contact(&row) {
            Err(reason) => {
                report.bad += 1;
                ctx.log_at(LogLevel::Warn, format!("line {line}: {reason}"));
            }
            Ok((_, email)) if !seen.insert(email.to_lowercase()) => {
                report.repeated += 1;
                ctx.log(format!("line {line}: {email} stands further up already"));
            }
            Ok((name, email)) => {
                report.imported += 1;
                contacts.write_record([name, email])?;
            }
        }
        ctx.progress(byte as f64 / content.len() as f64, format!("line {line}"));
        thread::sleep(pause);
    }
    if report.rows == 0 {
        return Err(Failure::give_up("there is no row below the header"));
    }
    let contacts = contacts
        .into_inner()
        .map_err(|error| Failure::retry(error.into_error()))?;
    Ok((report, contacts))
}

/// Where a header has what we want.
struct Columns {
    name: usize,
    email: usize,
    all: usize,
}

impl Columns {
    fn find(header: &ByteRecord) -> Result<Self, Failure> {
        let place = |wanted: &str| {
            header
                .iter()
                .position(|column| column.eq_ignore_ascii_case(wanted.as_bytes()))
                .ok_or_else(|| {
                    let found = header
                        .iter()
                        .map(String::from_utf8_lossy)
                        .collect::<Vec<_>>()
                        .join(", ");
                    Failure::give_up(format!(
                        "the first line must name a column {wanted:?}; it has: {found}"
                    ))
                })
        };
        Ok(Self {
            name: place("name")?,
            email: place("email")?,
            all: header.len(),
        })
    }

    fn contact<'a>(&self, row: &'a ByteRecord) -> Result<(&'a str, &'a str), String> {
        if row.len() != self.all {
            return Err(format!("{} fields instead of {}", row.len(), self.all));
        }
        let field = |n: usize| std::str::from_utf8(&row[n]).map_err(|_| "not UTF-8".to_owned());
        let (name, email) = (field(self.name)?, field(self.email)?);
        if name.is_empty() {
            return Err("no name".to_owned());
        }
        match email.parse::<Address>() {
            Ok(_) => Ok((name, email)),
            Err(error) => Err(format!("{email:?} is not a mail address ({error})")),
        }
    }
}

/// Spreadsheets write semicolons where the comma is the decimal point.
fn delimiter(content: &[u8]) -> u8 {
    let header = content
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    if header.contains(&b';') && !header.contains(&b',') {
        b';'
    } else {
        b','
    }
}

/// Takes the form: a file, or else what was pasted.
pub(crate) async fn submit(
    State(app): State<App>,
    mut form: Multipart,
) -> Result<Redirect, Problem> {
    let (mut pasted, mut slowly, mut incoming) = (String::new(), false, None);
    while let Some(field) = upload::next_field(&mut form, FormName::Csv).await? {
        match field.name() {
            Some("pasted") => pasted = upload::text(field, FormName::Csv).await?,
            Some("slowly") => slowly = true,
            Some("file") => {
                incoming =
                    upload::receive(field, &app.folders.uploads, CSV_BYTES_MAX, FormName::Csv)
                        .await?;
            }
            _ => {}
        }
    }
    let (stored, shown) = match incoming {
        Some(file) => (file.stored, file.shown),
        None if pasted.trim().is_empty() => {
            let text = "Please choose a file or paste some rows.".to_owned();
            return Err(Problem::unprocessable(FormName::Csv, text).with(Values {
                pasted,
                ..Values::default()
            }));
        }
        None if pasted.len() > CSV_BYTES_MAX => {
            return Err(Problem::too_large(FormName::Csv, CSV_BYTES_MAX));
        }
        None => {
            let stored = upload::store(&app.folders.uploads, pasted.as_bytes()).await;
            let stored = stored.map_err(|error| Problem::disk(FormName::Csv, &error))?;
            (stored, "pasted".to_owned())
        }
    };

    let added = app
        .manager
        .add_task(import_contacts, (stored.clone(), slowly))
        .tag("file", shown)
        .await;
    match added {
        Ok(id) => Ok(page::to_task(id, false)),
        Err(error) => {
            upload::forget(&app.folders.uploads, &stored).await;
            Err(Problem::refused(FormName::Csv, &error))
        }
    }
}

#[cfg(test)]
mod tests {
    use axum_taskflow::{TaskManager, WaitError};

    use super::*;

    struct Run {
        report: Result<Report, WaitError>,
        lines: Vec<String>,
        contacts: Option<String>,
    }

    /// Runs the task for a file with this content.
    async fn run(content: &[u8]) -> Run {
        let root = tempfile::tempdir().unwrap();
        let folders = Folders::below(root.path()).unwrap();
        fs::write(folders.uploads.join("upload"), content).unwrap();
        let manager = TaskManager::builder()
            .collect(false)
            .state(folders.clone())
            .build()
            .await
            .unwrap();

        let id = manager
            .add_task(import_contacts, ("upload".to_owned(), false))
            .await
            .unwrap();
        let report = manager.wait(id).await;

        let lines = manager.logs(id, 0, 100).await.unwrap();
        manager.shutdown().await.unwrap();
        Run {
            report,
            lines: lines.into_iter().map(|line| line.message).collect(),
            contacts: fs::read_to_string(folders.contacts.join(format!("{id}.csv"))).ok(),
        }
    }

    fn error(run: &Run) -> String {
        match &run.report {
            Err(WaitError::NotSuccessful(task)) => {
                task.life.error.as_ref().unwrap().message.clone()
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn good_rows_are_imported_and_bad_ones_counted_and_logged_by_line() {
        let run = run(b"name,email\n\
            Ada,ada@example.com\n\
            ,nobody@example.com\n\
            Bob,bob at example\n\
            \"Eve,\nthe second\",eve@example.com\n\
            Too,many@example.com,fields\n\
            Ada again,ADA@example.com\n")
        .await;

        let expected = Report {
            rows: 6,
            imported: 2,
            bad: 3,
            repeated: 1,
        };
        assert_eq!(run.report.unwrap(), expected);
        let starts: Vec<_> = run
            .lines
            .iter()
            .map(|line| line.split(':').next().unwrap())
            .collect();
        assert_eq!(starts, ["line 3", "line 4", "line 7", "line 8"]);
        assert_eq!(
            run.contacts.unwrap(),
            "name,email\nAda,ada@example.com\n\"Eve,\nthe second\",eve@example.com\n"
        );
    }

    #[tokio::test]
    async fn a_file_from_a_spreadsheet_has_a_mark_semicolons_and_other_columns() {
        let run = run("\u{FEFF}Born;Email;Name\r\n1815;ada@example.com;Zoë\r\n".as_bytes()).await;

        assert_eq!(run.report.unwrap().imported, 1);
        assert_eq!(run.contacts.unwrap(), "name,email\nZoë,ada@example.com\n");
    }

    #[tokio::test]
    async fn a_row_that_is_not_utf8_is_a_bad_row() {
        let run = run(b"name,email\nZo\xEB,zoe@example.com\nBob,bob@example.com\n").await;

        let report = run.report.unwrap();
        assert_eq!((report.imported, report.bad), (1, 1));
        assert_eq!(run.lines, ["line 2: not UTF-8"]);
    }

    #[tokio::test]
    async fn a_file_without_the_columns_fails_and_says_what_it_has() {
        let run = run(b"first,last\nAda,Lovelace\n").await;

        assert_eq!(
            error(&run),
            "the first line must name a column \"name\"; it has: first, last"
        );
        assert_eq!(run.contacts, None);
    }

    #[tokio::test]
    async fn a_header_alone_or_nothing_at_all_fails() {
        assert!(error(&run(b"name,email\n").await).contains("no row"));
        assert!(error(&run(b"").await).contains("must name a column"));
    }
}
