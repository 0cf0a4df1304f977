//! Which functions there are: by type when a task is added, by name when it runs.

use std::{
    any::{TypeId, type_name},
    collections::{BTreeMap, HashMap},
    fmt,
    marker::PhantomData,
    panic::Location,
    sync::{Arc, RwLock},
};

use crate::{
    error::Error,
    handler::{ArgError, Args, Invocation, TaskFn},
    states::{Need, States},
    task::{Executor, TaskOptions},
};

/// A function with its name and options: what `#[task]` writes for you.
///
/// ```
/// use axum_taskflow_core::{Config, TaskDef, TaskManager};
///
/// async fn send_email(address: String) {}
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), axum_taskflow_core::Error> {
/// let mut config = Config::default();
/// config.tasks.push(TaskDef::new(send_email).name("send_email").params(&["address"]));
/// let manager = TaskManager::start(config).await?;
///
/// manager.add_task(send_email, "a@example.org".to_owned()).await?;
/// # manager.shutdown().await
/// # }
/// ```
#[derive(Clone)]
pub struct TaskDef {
    pub(crate) name: Arc<str>,
    pub(crate) aliases: Vec<Arc<str>>,
    pub(crate) options: TaskOptions,
    pub(crate) params: &'static [&'static str],
    pub(crate) executor: Executor,
    pub(crate) needs: Vec<Need>,
    pub(crate) place: &'static Location<'static>,
    pub(crate) type_id: TypeId,
    handler: Arc<dyn Handler>,
}

impl TaskDef {
    /// This function under its own name, with the manager's options.
    #[track_caller]
    pub fn new<F, P, M>(function: F) -> Self
    where
        F: TaskFn<P, M>,
        P: Args,
        M: 'static,
    {
        let path = type_name::<F>();
        Self {
            name: path.rsplit("::").next().unwrap_or(path).into(),
            aliases: Vec::new(),
            options: TaskOptions::default(),
            params: &[],
            executor: F::EXECUTOR,
            needs: F::needs(),
            place: Location::caller(),
            type_id: TypeId::of::<F>(),
            handler: Arc::new(Typed {
                function,
                types: PhantomData,
            }),
        }
    }

    /// The name under which its tasks are stored.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// A name that the function had before: tasks stored under it run here too.
    #[must_use]
    pub fn alias(mut self, alias: impl Into<Arc<str>>) -> Self {
        self.aliases.push(alias.into());
        self
    }

    /// What its tasks do unless the caller says otherwise.
    #[must_use]
    pub fn options(mut self, options: TaskOptions) -> Self {
        self.options = options;
        self
    }

    /// The names of its parameters, for messages. Those of `TaskContext` and `Data<T>` may be left out: the last ones
    /// are the arguments'.
    #[must_use]
    pub fn params(mut self, names: &'static [&'static str]) -> Self {
        self.params = names;
        self
    }

    /// The arguments as JSON. In debug builds read back at once: what cannot be read would fail much later, and
    /// elsewhere.
    pub(crate) fn encode<P: Args>(&self, args: &P) -> Result<String, Error> {
        let json = args.encode().map_err(|error| {
            Error::invalid(format!("cannot store the {}", self.complain(&error)))
        })?;
        if cfg!(debug_assertions) {
            self.check_args(&json).map_err(|why| {
                Error::invalid(format!("the {why}: it can be stored, but not read again"))
            })?;
        }
        Ok(json)
    }

    /// Reads the stored arguments; the call itself is made later, once the start of the attempt is stored.
    ///
    /// # Errors
    /// Why the stored arguments do not fit.
    pub(crate) fn prepare(&self, args: &str) -> Result<Invocation, String> {
        self.handler
            .prepare(args)
            .map_err(|error| self.complain(&error))
    }

    /// Reads stored arguments and drops them.
    ///
    /// # Errors
    /// Why they do not fit.
    pub(crate) fn check_args(&self, args: &str) -> Result<(), String> {
        self.handler
            .check(args)
            .map_err(|error| self.complain(&error))
    }

    /// What is wrong with arguments, with the parameter's name.
    pub(crate) fn complain(&self, error: &ArgError) -> String {
        let name = &self.name;
        match error {
            ArgError::At(n, error) => match self.param(*n) {
                Some(param) => format!("argument `{param}` of {name}: {error}"),
                None => format!("argument {} of {name}: {error}", n + 1),
            },
            // Not "stored": those of a call by name are not, yet.
            ArgError::Count(n) => match self.handler.args_len() {
                1 => format!("{name} takes 1 argument, not {n}"),
                taken => format!("{name} takes {taken} arguments, not {n}"),
            },
            ArgError::Shape(error) => {
                format!("the arguments of {name} are no JSON array: {error}")
            }
        }
    }

    /// The name of the argument at `n`, counted from 0.
    fn param(&self, n: usize) -> Option<&'static str> {
        let provided = self.params.len().checked_sub(self.handler.args_len())?;
        self.params.get(provided + n).copied()
    }

    fn at(&self) -> String {
        format!("{}:{}", self.place.file(), self.place.line())
    }
}

impl fmt::Debug for TaskDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskDef")
            .field("name", &self.name)
            .field("place", &self.at())
            .finish_non_exhaustive()
    }
}

trait Handler: Send + Sync {
    fn prepare(&self, args: &str) -> Result<Invocation, ArgError>;
    fn check(&self, args: &str) -> Result<(), ArgError>;
    fn args_len(&self) -> usize;
}

struct Typed<F, P, M> {
    function: F,
    types: PhantomData<fn() -> (P, M)>,
}

impl<F, P, M> Handler for Typed<F, P, M>
where
    F: TaskFn<P, M>,
    P: Args,
    M: 'static,
{
    fn prepare(&self, args: &str) -> Result<Invocation, ArgError> {
        Ok(self.function.clone().invoke(P::decode(args)?))
    }

    fn check(&self, args: &str) -> Result<(), ArgError> {
        P::decode(args).map(drop)
    }

    fn args_len(&self) -> usize {
        P::LEN
    }
}

/// What `#[task]` registers, collected from all crates of a program when it starts.
#[doc(hidden)]
#[derive(Debug)]
pub struct Registered(fn() -> TaskDef);

impl Registered {
    #[doc(hidden)]
    #[must_use]
    pub const fn new(def: fn() -> TaskDef) -> Self {
        Self(def)
    }
}

inventory::collect!(Registered);

/// All functions with `#[task]` in this program.
pub(crate) fn collected() -> Vec<TaskDef> {
    inventory::iter::<Registered>()
        .map(|def| (def.0)())
        .collect()
}

/// A function as it was registered.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FunctionInfo {
    /// Its name.
    pub name: Arc<str>,
    /// Names that it had before.
    pub aliases: Vec<Arc<str>>,
    /// What its tasks do unless the caller says otherwise.
    pub options: TaskOptions,
    /// Where it runs.
    pub executor: Executor,
    /// Where it was registered, `file:line`.
    pub place: String,
}

/// The functions that a manager knows.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    /// A std lock: held for one look-up. Written only when a function without `#[task]` is added for the first time.
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_type: HashMap<TypeId, Arc<TaskDef>>,
    by_name: BTreeMap<Arc<str>, Arc<TaskDef>>,
    /// Names and aliases by where they run, for claims. Rebuilt when a function comes.
    names_async: Arc<[Arc<str>]>,
    names_thread: Arc<[Arc<str>]>,
}

impl Registry {
    /// Takes these functions, or says everything that is wrong with them.
    pub(crate) fn new(defs: Vec<TaskDef>, states: &States) -> Result<Self, Vec<String>> {
        let mut known = Known::default();
        let complaints: Vec<String> = defs
            .into_iter()
            .flat_map(|def| known.insert(def, states).err().unwrap_or_default())
            .collect();
        match complaints.is_empty() {
            true => Ok(Self {
                known: RwLock::new(known),
            }),
            false => Err(complaints),
        }
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<Arc<TaskDef>> {
        self.read().by_name.get(name).cloned()
    }

    /// The function of this name, if it takes these arguments: a JSON array.
    pub(crate) fn named(&self, name: &str, args: &str) -> Result<Arc<TaskDef>, Error> {
        let def = self.by_name(name).ok_or_else(|| {
            Error::invalid(format!("no function is known here by the name {name:?}"))
        })?;
        def.check_args(args).map_err(Error::invalid)?;
        Ok(def)
    }

    /// The function that is added here; one without `#[task]` becomes known under its full path.
    ///
    /// The second answer is true if it was not known before. All closures in one function have one path, so the place
    /// of the call is part of a closure's name.
    pub(crate) fn of_function<F, P, M>(
        &self,
        function: F,
        place: &Location<'_>,
        states: &States,
    ) -> Result<(Arc<TaskDef>, bool), Error>
    where
        F: TaskFn<P, M>,
        P: Args,
        M: 'static,
    {
        if let Some(def) = self.read().by_type.get(&TypeId::of::<F>()) {
            return Ok((def.clone(), false));
        }
        let path = type_name::<F>();
        let name = match path.contains("{{closure}}") {
            true => format!("{path} at {}:{}", place.file(), place.line()),
            false => path.to_owned(),
        };
        let def = TaskDef::new(function).name(name);
        let mut known = self
            .known
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        known
            .insert(def, states)
            .map(|def| (def, true))
            .map_err(|complaints| Error::invalid(complaints.join("; ")))
    }

    /// The names whose tasks this manager can run.
    pub(crate) fn names(&self, executor: Executor) -> Arc<[Arc<str>]> {
        match executor {
            Executor::Async => self.read().names_async.clone(),
            Executor::Thread => self.read().names_thread.clone(),
        }
    }

    /// True if `a` and `b` are names of one function.
    pub(crate) fn same(&self, a: &str, b: &str) -> bool {
        let known = self.read();
        a == b
            || match (known.by_name.get(a), known.by_name.get(b)) {
                (Some(a), Some(b)) => a.type_id == b.type_id,
                _ => false,
            }
    }

    pub(crate) fn functions(&self) -> Vec<FunctionInfo> {
        let known = self.read();
        let defs = known
            .by_name
            .iter()
            .filter(|(name, def)| **name == def.name);
        defs.map(|(_, def)| FunctionInfo {
            name: def.name.clone(),
            aliases: def.aliases.clone(),
            options: def.options.clone(),
            executor: def.executor,
            place: def.at(),
        })
        .collect()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Known> {
        self.known
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Known {
    fn insert(&mut self, def: TaskDef, states: &States) -> Result<Arc<TaskDef>, Vec<String>> {
        let mut complaints = Vec::new();
        if let Some(complaint) = def.options.complaint() {
            complaints.push(format!("task {} ({}): {complaint}", def.name, def.at()));
        }
        for need in def.needs.iter().filter(|need| !states.has(need)) {
            complaints.push(format!(
                "task {} ({}) takes Data<{type_name}>, and the manager has no such state: add .state({type_name} …)",
                def.name,
                def.at(),
                type_name = need.type_name,
            ));
        }
        for name in std::iter::once(&def.name).chain(&def.aliases) {
            if let Some(complaint) = name_complaint(name) {
                complaints.push(format!("task at {}: {complaint}", def.at()));
            }
            if let Some(other) = self.by_name.get(name)
                && (other.type_id != def.type_id || other.place != def.place)
            {
                complaints.push(format!(
                    "two functions are called {name:?}: {} and {}; give one of them another name: #[task(name = \"…\")]",
                    other.at(),
                    def.at()
                ));
            }
        }
        if !complaints.is_empty() {
            return Err(complaints);
        }
        let def = Arc::new(def);
        self.by_type.insert(def.type_id, def.clone());
        for name in std::iter::once(&def.name).chain(&def.aliases) {
            self.by_name.insert(name.clone(), def.clone());
        }
        self.names_async = self.names(Executor::Async);
        self.names_thread = self.names(Executor::Thread);
        Ok(def)
    }

    fn names(&self, executor: Executor) -> Arc<[Arc<str>]> {
        self.by_name
            .iter()
            .filter(|(_, def)| def.executor == executor)
            .map(|(name, _)| name.clone())
            .collect()
    }
}

/// Longest name of a function, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 256;

/// What is wrong with a function's name, if anything is.
pub(crate) fn name_complaint(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("a task's name must not be empty".to_owned());
    }
    if name.len() > NAME_BYTES_MAX {
        return Some(format!(
            "a task's name must have at most {NAME_BYTES_MAX} bytes, and this one has {}",
            name.len()
        ));
    }
    if name.chars().any(char::is_control) {
        return Some(format!(
            "a task's name must not have control characters: {name:?}"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{Data, TaskContext};

    async fn resize(_: TaskContext, _: Data<u8>, _path: String, _width: u32) {}

    const STORED: &str = r#"["a.png","wide"]"#;

    #[test]
    fn a_complaint_names_the_argument_wherever_the_extras_are_named_too() {
        let all = TaskDef::new(resize).params(&["ctx", "Data(db)", "path", "width"]);
        let arguments_only = TaskDef::new(resize).params(&["path", "width"]);

        for def in [all, arguments_only] {
            let complaint = def.check_args(STORED).unwrap_err();
            assert!(
                complaint.starts_with("argument `width` of resize: "),
                "{complaint}"
            );
        }
    }

    #[test]
    fn a_complaint_without_all_names_counts() {
        for params in [&[][..], &["width"]] {
            let complaint = TaskDef::new(resize)
                .params(params)
                .check_args("[7,7]")
                .unwrap_err();
            assert!(
                complaint.starts_with("argument 1 of resize: "),
                "{complaint}"
            );
        }
    }
}
