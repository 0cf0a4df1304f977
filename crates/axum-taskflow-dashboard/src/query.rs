//! What a request asks for, read from its query.

use std::fmt;

use axum_taskflow_core::{
    Error, ListQuery, Page, Tags, TaskId, TaskManager, TaskStatus, Timestamp,
};

use crate::problem::Problem;

/// Tasks in a list unless the request says otherwise.
pub(crate) const LIMIT_DEFAULT: usize = 100;
/// Tasks in a list at most.
pub(crate) const LIMIT_MAX: usize = 1_000;
/// Bytes of a parameter at most; nothing that is stored has longer names.
const PARAM_BYTES_MAX: usize = 1_024;
/// How often the store is asked for one page. A store may answer with a short page, so that its work is bounded; ours is
/// bounded by this, and the reader goes on where we stopped.
const READS_MAX: usize = 3;

/// The parameters of a query, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    pub(crate) fn of(query: &[u8]) -> Self {
        Self(form_urlencoded::parse(query).into_owned().collect())
    }

    /// The last value of this name; an empty one counts as none, as HTML forms send it.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| &**value)
    }

    fn short(&self, name: &str) -> Result<Option<&str>, Problem> {
        match self.get(name) {
            Some(value) if value.len() > PARAM_BYTES_MAX => Err(Problem::unprocessable(format!(
                "{name} must have at most {PARAM_BYTES_MAX} bytes, and this one has {}",
                value.len()
            ))),
            value => Ok(value),
        }
    }

    /// A whole number in a range.
    pub(crate) fn number(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Problem> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        match text.parse() {
            Ok(n) if (min..=max).contains(&n) => Ok(Some(n)),
            _ => Err(Problem::unprocessable(format!(
                "{name} must be a whole number from {min} to {max}, not {:?}",
                short(text)
            ))),
        }
    }

    pub(crate) fn limit(&self) -> Result<usize, Problem> {
        let limit = self.number("limit", 1, LIMIT_MAX as u64)?;
        Ok(limit.map_or(LIMIT_DEFAULT, |n| usize::try_from(n).unwrap_or(LIMIT_MAX)))
    }

    /// A task's id, or a time: the place between the tasks created before it and those created from then on.
    pub(crate) fn place(&self, name: &str) -> Result<Option<TaskId>, Problem> {
        let Some(text) = self.short(name)? else {
            return Ok(None);
        };
        if let Ok(id) = text.parse() {
            return Ok(Some(id));
        }
        // "+" in a query means a blank, and few remember to write it as %2B.
        match text.replace(' ', "+").parse::<Timestamp>() {
            Ok(at) => Ok(Some(TaskId::floor(at))),
            Err(_) => Err(Problem::unprocessable(format!(
                "{name} must be a task id or an RFC 3339 time such as 2026-11-22T09:00:00+00:00, not {:?}",
                short(text)
            ))),
        }
    }

    /// A time.
    pub(crate) fn time(&self, name: &str) -> Result<Option<Timestamp>, Problem> {
        let Some(text) = self.short(name)? else {
            return Ok(None);
        };
        let time = text.replace(' ', "+").parse(); // as in a place
        time.map(Some).map_err(|_| {
            Problem::unprocessable(format!(
                "{name} must be an RFC 3339 time such as 2026-11-22T09:00:00+00:00, not {:?}",
                short(text)
            ))
        })
    }

    /// These parameters and no others: one that is misspelt would make a deed wider than it was meant.
    pub(crate) fn only(&self, names: &[&str]) -> Result<(), Problem> {
        let other = self.0.iter().find(|(name, _)| !names.contains(&&**name));
        other.map_or(Ok(()), |(name, _)| {
            Err(Problem::unprocessable(format!(
                "there is no parameter {:?} here: there are {}",
                short(name),
                names.join(", ")
            )))
        })
    }

    /// What must be given.
    pub(crate) fn needed(&self, name: &str) -> Result<&str, Problem> {
        self.short(name)?
            .ok_or_else(|| Problem::unprocessable(format!("{name} is missing: ?{name}=…")))
    }

    pub(crate) fn func_name(&self) -> Result<Option<String>, Problem> {
        Ok(self.short("func_name")?.map(str::to_owned))
    }
}

/// The beginning of what somebody sent, for a message.
fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Which statuses are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    All,
    Only(TaskStatus),
    /// A status of fastapi-taskflow that no task here ever has.
    Nothing,
}

/// A part of all tasks, as requests name it.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    pub(crate) status: Wanted,
    pub(crate) func_name: Option<String>,
    pub(crate) tag: Option<Tag>,
    pub(crate) tracking_id: Option<String>,
}

/// A tag as requests name it: `key`, or `key=value`. A key is written with `\=` for `=` and `\\` for `\`, so that each has
/// a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    key: String,
    /// Whatever it is, if there is none.
    value: Option<String>,
}

impl Tag {
    pub(crate) fn of(text: &str) -> Self {
        let mut key = String::new();
        let mut rest = text.chars();
        while let Some(char) = rest.next() {
            match char {
                '=' => {
                    let value = Some(rest.as_str().to_owned());
                    return Self { key, value };
                }
                '\\' if rest.as_str().starts_with(['=', '\\']) => key.extend(rest.next()),
                _ => key.push(char),
            }
        }
        Self { key, value: None }
    }

    pub(crate) fn of_task(key: &str, value: &str) -> Self {
        Self {
            key: key.to_owned(),
            value: Some(value.to_owned()),
        }
    }

    pub(crate) fn is_of(&self, tags: &Tags) -> bool {
        let value = tags.get(&self.key);
        value.is_some_and(|has| self.value.as_ref().is_none_or(|wanted| wanted == has))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.replace('\\', r"\\").replace('=', r"\=");
        f.write_str(&key)?;
        match &self.value {
            Some(value) => write!(f, "={value}"),
            None => Ok(()),
        }
    }
}

impl Filter {
    pub(crate) fn of(params: &Params) -> Result<Self, Problem> {
        let status = match params.short("status")? {
            None => Wanted::All,
            Some("rejected") => Wanted::Nothing,
            Some(word) => Wanted::Only(word.parse().map_err(|_| {
                let words = TaskStatus::ALL.map(TaskStatus::as_str).join(", ");
                Problem::unprocessable(format!(
                    "status must be one of {words}, rejected; not {:?}",
                    short(word)
                ))
            })?),
        };
        Ok(Self {
            status,
            func_name: params.func_name()?,
            tag: params.short("tag")?.map(Tag::of),
            tracking_id: params.short("tracking_id")?.map(str::to_owned),
        })
    }

    pub(crate) fn is_all(&self) -> bool {
        self.status == Wanted::All && self.func_name.is_none() && !self.is_uncounted()
    }

    /// Counters know neither tags nor tracking ids.
    pub(crate) fn is_uncounted(&self) -> bool {
        self.tag.is_some() || self.tracking_id.is_some()
    }

    /// The word of the status, or nothing.
    pub(crate) fn status_word(&self) -> &'static str {
        match self.status {
            Wanted::All => "",
            Wanted::Only(status) => status.as_str(),
            Wanted::Nothing => "rejected",
        }
    }

    /// Few tasks have the status, and a store finds them without looking at others.
    pub(crate) fn is_rare(&self) -> bool {
        let is_rare = |status| !matches!(status, TaskStatus::Success);
        matches!(self.status, Wanted::Only(status) if is_rare(status))
            && self.func_name.is_none()
            && !self.is_uncounted()
    }

    /// The status, if it is one of those whose tasks are retried many at a time.
    pub(crate) fn ended_badly(&self) -> Option<TaskStatus> {
        match self.status {
            Wanted::Only(status @ (TaskStatus::Failed | TaskStatus::Interrupted)) => Some(status),
            _ => None,
        }
    }

    /// The query that finds them.
    pub(crate) fn query(&self) -> ListQuery {
        let mut query = ListQuery::default();
        if let Wanted::Only(status) = self.status {
            query.status = Some(status);
        }
        query.name.clone_from(&self.func_name);
        let tag = self.tag.as_ref();
        query.tag = tag.map(|tag| (tag.key.clone(), tag.value.clone()));
        query.tracking_id.clone_from(&self.tracking_id);
        query
    }

    /// Its parameters.
    pub(crate) fn fields(&self) -> Vec<(&'static str, String)> {
        let parts = [
            ("status", Some(self.status_word().to_owned())),
            ("func_name", self.func_name.clone()),
            ("tag", self.tag.as_ref().map(Tag::to_string)),
            ("tracking_id", self.tracking_id.clone()),
        ];
        let parts = parts.into_iter();
        let given = parts.filter_map(|(name, value)| Some((name, value?)));
        given.filter(|(_, value)| !value.is_empty()).collect()
    }

    /// The same, percent-encoded.
    pub(crate) fn write(&self, query: &mut form_urlencoded::Serializer<'_, String>) {
        query.extend_pairs(self.fields());
    }

    /// A page of them: short only if there are no more, or if those that fit are so rare that looking on would take
    /// too long. In both cases [`Page::next`] tells.
    pub(crate) async fn page(
        &self,
        manager: &TaskManager,
        mut query: ListQuery,
    ) -> Result<Page, Error> {
        let mut page = Page::default();
        if self.status == Wanted::Nothing {
            return Ok(page);
        }
        let wanted = query.limit;
        for _ in 0..READS_MAX {
            query.limit = wanted.saturating_sub(page.tasks.len());
            let more = manager.list(query.clone()).await?;
            page.tasks.extend(more.tasks);
            page.next = more.next;
            if page.next.is_none() || page.tasks.len() >= wanted {
                break;
            }
            query.before = page.next;
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> Params {
        Params::of(query.as_bytes())
    }

    #[test]
    fn a_limit_is_a_number_in_its_range_or_a_complaint_that_names_it() {
        assert_eq!(params("").limit().unwrap(), 100);
        assert_eq!(params("limit=").limit().unwrap(), 100);
        assert_eq!(params("limit=1000").limit().unwrap(), 1_000);
        for wrong in [
            "0",
            "-1",
            "1001",
            "ten",
            "1e3",
            "99999999999999999999999",
            "%FF",
        ] {
            let problem = params(&format!("limit={wrong}")).limit().unwrap_err();

            assert_eq!(problem.status, 422, "{wrong}");
            assert!(problem.detail.starts_with("limit must be"), "{problem:?}");
        }
    }

    #[test]
    fn a_place_is_an_id_or_a_time_with_or_without_an_escaped_plus() {
        let id = "01993f8a-41c2-7b1e-9d0a-5a2f1c9e7d10";
        let by_id = params(&format!("before={id}")).place("before").unwrap();
        assert_eq!(by_id.unwrap().to_string(), id);

        let at: Timestamp = "2026-11-22T08:00:00+00:00".parse().unwrap();
        for time in [
            "2026-11-22T09:00:00%2B01:00",
            "2026-11-22T09:00:00+01:00",
            "2026-11-22T08:00:00Z",
        ] {
            let place = params(&format!("after={time}")).place("after").unwrap();

            assert_eq!(place, Some(TaskId::floor(at)), "{time}");
        }

        let problem = params("after=yesterday").place("after").unwrap_err();
        assert!(problem.detail.contains("not \"yesterday\""), "{problem:?}");
    }

    #[test]
    fn an_unknown_status_is_refused_and_rejected_is_a_word_that_matches_nothing() {
        let filter = Filter::of(&params("status=rejected")).unwrap();
        assert_eq!(filter.status, Wanted::Nothing);

        let problem = Filter::of(&params("status=done")).unwrap_err();
        assert_eq!(problem.status, 422);
        assert!(problem.detail.contains("pending, running"), "{problem:?}");
    }

    #[test]
    fn a_filter_survives_its_way_through_a_link() {
        let filter = Filter::of(&params(
            "status=failed&func_name=a%26b&tag=k%3Dv%3D1&tracking_id=%23%2F",
        ))
        .unwrap();

        let mut query = form_urlencoded::Serializer::new(String::new());
        filter.write(&mut query);
        let again = Filter::of(&params(&query.finish())).unwrap();

        assert_eq!(again.func_name.as_deref(), Some("a&b"));
        assert_eq!(again.query().tag, Some(("k".into(), Some("v=1".into()))));
        assert_eq!(again.query().status, Some(TaskStatus::Failed));
        assert_eq!(again.query().tracking_id.as_deref(), Some("#/"));
    }

    #[test]
    fn a_tag_is_read_as_it_was_written_whatever_it_is_made_of() {
        for (key, value) in [
            ("k", "v"),
            ("a=b", "c=d"),
            (r"a\", r"\="),
            (r"\=\\", ""),
            ("", "="),
        ] {
            let tag = Tag::of_task(key, value);

            assert_eq!(Tag::of(&tag.to_string()), tag);
        }
        assert_eq!(Tag::of(r"a\b=c"), Tag::of_task(r"a\b", "c"));
        assert_eq!(Tag::of("a").value, None);
    }

    #[test]
    fn a_parameter_of_ten_kilobytes_is_refused() {
        let long = "x".repeat(10 * 1_024);

        for name in ["func_name", "tag", "tracking_id", "status"] {
            let problem = Filter::of(&params(&format!("{name}={long}"))).unwrap_err();

            assert!(problem.detail.starts_with(name), "{problem:?}");
            assert!(problem.detail.len() < 200);
        }
    }
}
