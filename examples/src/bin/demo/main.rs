//! A small application whose slow work happens in tasks: a welcome mail, thumbnails, an import, a webhook.
//!
//! `cargo run -p examples --bin demo`, then open <http://127.0.0.1:8000/>. The environment may say:
//! - `DATABASE`: the SQLite file (default `demo.db`), or `memory`
//! - `PORT`: default 8000; 0 picks one
//! - `PASSWORD`: of the dashboard's user `admin`; without it one is made, kept in `DATA` and printed
//! - `DATA`: the folder for uploads, mails and thumbnails (default `demo-data`)
//! - `DEMO_ALLOW_ANY_HOST=1`: webhooks may leave this machine
//!
//! Each form is a file: the task and the handler that adds it stand together. What no form asks for, a schedule and a
//! lead, is in `housekeeping`.

mod contacts;
mod files;
mod folders;
mod guard;
mod housekeeping;
mod page;
mod pictures;
mod practice;
mod seen;
mod settings;
mod sign_in;
mod signup;
mod trouble;
mod upload;
mod webhook;

use std::{
    error::Error,
    io::{self, IsTerminal},
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, FromRef},
    middleware,
    routing::{any, get, post},
};
use axum_taskflow::{Builder, TaskAdmin, TaskManager};
use tokio::net::TcpListener;

use crate::{
    folders::Folders, practice::Calls, settings::Settings, sign_in::SignIn, signup::Mailer,
    webhook::Webhooks,
};

/// What the handlers need. Tasks get theirs by type, see [`builder`].
#[derive(Clone)]
struct App {
    manager: TaskManager,
    folders: Folders,
    webhooks: Webhooks,
    calls: Calls,
}

impl FromRef<App> for TaskManager {
    fn from_ref(app: &App) -> Self {
        app.manager.clone()
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    // To the terminal, without colours if it goes elsewhere.
    let colours = io::stdout().is_terminal();
    tracing_subscriber::fmt()
        .with_target(false)
        .with_ansi(colours)
        .init();
    let settings = match Settings::from_env(|name| std::env::var_os(name)) {
        Ok(settings) => settings,
        Err(complaints) => {
            eprintln!("The demo cannot start:\n{complaints}");
            return ExitCode::from(2);
        }
    };
    match run(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("The demo cannot run: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: Settings) -> Result<(), Box<dyn Error>> {
    // First of all: a second demo is to fail before it touches anything.
    let listener = listen(settings.port).await?;
    let home = format!("http://{}/", listener.local_addr()?);
    let folders = Folders::below(&settings.folder)?;
    let webhooks = Webhooks::new(home.parse()?, settings.any_host)?;
    let sign_in = SignIn::new(settings.password.clone(), &settings.folder)?;

    let builder = builder(&folders, &webhooks);
    let builder = match &settings.database {
        Some(path) => builder.sqlite(path),
        None => builder,
    };
    let manager = builder.build().await?;

    tokio::spawn(housekeeping::list_mails(manager.clone(), folders.clone()));

    let app = App {
        manager: manager.clone(),
        folders,
        webhooks,
        calls: Calls::default(),
    };
    let admin = sign_in.guard(TaskAdmin::new(&manager));
    let routes = routes(app).merge(admin.at("/tasks"));
    announce(&home, &settings, &sign_in);
    // With their addresses: who guesses passwords then keeps nobody but himself from signing in.
    let service = routes.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service)
        .with_graceful_shutdown(manager.shutdown_on_signal())
        .await?;
    // Nobody can ask any more: the store is closed.
    manager.shutdown().await?;
    Ok(())
}

fn builder(folders: &Folders, webhooks: &Webhooks) -> Builder {
    TaskManager::builder()
        // Whatever a task takes as `Data<T>`; a missing one is told at the start, not at its first run.
        .state(Mailer::into_folder(&folders.outbox))
        .state(folders.clone())
        .state(webhooks.clone())
        // Nobody waits a minute for a demo to end.
        .shutdown_timeout(Duration::from_secs(3))
}

/// Says where to look.
fn announce(home: &str, settings: &Settings, sign_in: &SignIn) {
    let shown = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let password = match settings.password {
        Some(_) => "as in PASSWORD",
        None => &sign_in.password,
    };
    let tasks = match &settings.database {
        Some(path) => shown(path).display().to_string(),
        None => "in memory: they are gone when the demo ends".to_owned(),
    };
    println!(
        "\n  forms      {home}\n  dashboard  {home}tasks/dashboard\n             user admin, password {password}\n  \
         tasks      {tasks}\n  files      {}\n",
        shown(&settings.folder).display()
    );
}

fn routes(app: App) -> Router {
    let forms = Router::new()
        .route("/", get(page::show))
        .route("/seen/{id}", get(seen::show_part))
        .route("/cancel", post(seen::cancel))
        .route("/signup", post(signup::submit))
        .route("/picture", post(pictures::submit))
        .route("/csv", post(contacts::submit))
        .route("/webhook", post(webhook::submit))
        .route("/division", post(trouble::submit_division))
        .route("/minute", post(trouble::submit_minute))
        .route("/outbox/{name}", get(files::mail))
        .route("/thumbnails/{name}", get(files::thumbnail))
        .route("/demo.css", get(files::css))
        .route("/demo.js", get(files::js))
        .route("/demo.svg", get(files::svg))
        .route("/favicon.ico", get(files::svg)) // where browsers look if a page, such as a mail, names none
        .layer(DefaultBodyLimit::max(upload::REQUEST_BYTES_MAX))
        .layer(middleware::from_fn(guard::guard));
    // What webhooks are sent to is no form: programs call it.
    let practice = Router::new()
        .route("/echo", any(practice::echo))
        .route("/flaky", post(practice::flaky));
    forms.merge(practice).with_state(app)
}

async fn listen(port: u16) -> Result<TcpListener, String> {
    // This machine only: nobody has to sign in to use the forms.
    TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "port {port} is in use, perhaps by another demo; choose one with PORT=8001, or let PORT=0 find one"
        ),
        io::ErrorKind::PermissionDenied => format!("port {port} needs more rights; choose one above 1023 with PORT"),
        _ => format!("cannot listen on port {port}: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use axum_taskflow::TaskId;
    use reqwest::{Client, Response, StatusCode, redirect};

    use super::*;

    /// The demo on a port of its own, with tasks in memory.
    struct Demo {
        app: App,
        home: String,
        client: Client,
        _folder: tempfile::TempDir,
    }

    impl Demo {
        async fn start() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let listener = listen(0).await.unwrap();
            let home = format!("http://{}", listener.local_addr().unwrap());
            let folders = Folders::below(folder.path()).unwrap();
            let webhooks = Webhooks::new(home.parse().unwrap(), false).unwrap();
            let app = App {
                manager: builder(&folders, &webhooks).build().await.unwrap(),
                folders,
                webhooks,
                calls: Calls::default(),
            };
            let routes = routes(app.clone());
            tokio::spawn(async move { axum::serve(listener, routes).await });
            let client = Client::builder().redirect(redirect::Policy::none());
            Self {
                app,
                home,
                client: client.no_proxy().build().unwrap(),
                _folder: folder,
            }
        }

        async fn post(
            &self,
            path: &str,
            media_type: &str,
            body: impl Into<reqwest::Body>,
        ) -> Response {
            let request = self.client.post(format!("{}{path}", self.home));
            request
                .header("content-type", media_type)
                .body(body)
                .send()
                .await
                .unwrap()
        }

        async fn form(&self, path: &str, body: &'static str) -> Response {
            self.post(path, "application/x-www-form-urlencoded", body)
                .await
        }

        async fn file(&self, path: &str, field: &str, content: &[u8]) -> Response {
            let mut body = format!(
                "--b\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"a.png\"\r\n\r\n"
            )
            .into_bytes();
            body.extend_from_slice(content);
            body.extend_from_slice(b"\r\n--b--\r\n");
            self.post(path, "multipart/form-data; boundary=b", body)
                .await
        }

        async fn text(&self, path: &str) -> String {
            let request = self.client.get(format!("{}{path}", self.home));
            request.send().await.unwrap().text().await.unwrap()
        }
    }

    /// The task that a form led to.
    fn task(answer: &Response) -> TaskId {
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        let place = answer.headers()["location"].to_str().unwrap();
        let id = place.strip_prefix("/?task=").unwrap();
        id.trim_end_matches("&again=1").parse().unwrap()
    }

    fn n_files(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[tokio::test]
    async fn many_sign_ups_with_one_address_are_one_mail() {
        let demo = Demo::start().await;
        let sign_up = || demo.form("/signup", "name=Ada&address=ada%40example.com");

        let (one, two, three) = tokio::join!(sign_up(), sign_up(), sign_up());
        demo.app
            .manager
            .wait::<signup::Sent>(task(&one))
            .await
            .unwrap();
        let later = demo
            .form("/signup", "name=Ada&address=ADA%40example.com")
            .await;

        let ids = [&one, &two, &three, &later].map(task);
        assert_eq!(ids, [ids[0]; 4]);
        assert_eq!(n_files(&demo.app.folders.outbox), 1);
        assert!(
            later.headers()["location"]
                .to_str()
                .unwrap()
                .ends_with("&again=1")
        );
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_answered_on_the_page_with_what_was_typed() {
        let demo = Demo::start().await;

        let answer = demo
            .form("/signup", "name=Ada+%3Ci%3E&address=nowhere")
            .await;

        assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);
        let page = answer.text().await.unwrap();
        assert!(page.contains("“nowhere” is not a mail address"), "{page}");
        assert!(page.contains("value=\"Ada &#60;i&#62;\""), "{page}");
    }

    #[tokio::test]
    async fn an_uploaded_picture_is_seen_as_thumbnails() {
        let demo = Demo::start().await;
        let mut png = io::Cursor::new(Vec::new());
        let picture = image::DynamicImage::new_rgb8(640, 480);
        picture.write_to(&mut png, image::ImageFormat::Png).unwrap();

        let id = task(&demo.file("/picture", "picture", png.get_ref()).await);
        let made: Vec<pictures::Thumbnail> = demo.app.manager.wait(id).await.unwrap();

        let seen = demo.text(&format!("/seen/{id}")).await;
        for thumbnail in made {
            let path = format!("/thumbnails/{}", thumbnail.file);
            assert!(seen.contains(&path), "{seen}");
            let request = demo.client.get(format!("{}{path}", demo.home));
            let answer = request.send().await.unwrap();
            assert_eq!(answer.headers()["content-type"], "image/jpeg");
            assert!(image::load_from_memory(&answer.bytes().await.unwrap()).is_ok());
        }
    }

    #[tokio::test]
    async fn an_upload_that_is_too_large_says_so_and_leaves_no_file() {
        let demo = Demo::start().await;
        let large = vec![0; pictures::PICTURE_BYTES_MAX + 1];

        let answer = demo.file("/picture", "picture", &large).await;

        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert!(answer.text().await.unwrap().contains("at most 10 MiB"));
        assert_eq!(n_files(&demo.app.folders.uploads), 0);
    }

    #[tokio::test]
    async fn an_uploaded_file_of_contacts_is_imported() {
        let demo = Demo::start().await;

        let answer = demo
            .file("/csv", "file", b"name,email\nAda,ada@example.com\n")
            .await;
        let report: contacts::Report = demo.app.manager.wait(task(&answer)).await.unwrap();

        assert_eq!((report.rows, report.imported), (1, 1));
    }

    #[tokio::test]
    async fn a_webhook_can_be_tried_on_the_demo_itself() {
        let demo = Demo::start().await;

        let answer = demo.form("/webhook", "address=%2Fecho&message=hello").await;
        let answer: webhook::Answer = demo.app.manager.wait(task(&answer)).await.unwrap();

        assert_eq!(answer.status, 200);
        assert!(answer.body.contains("hello"), "{}", answer.body);
    }

    #[tokio::test]
    async fn uploads_are_swept_by_the_clock_once_no_task_needs_them() {
        let demo = Demo::start().await;
        let (old, new) = ("old.png", "new.png");
        let month = Duration::from_secs(31 * 24 * 3_600);
        for (name, age) in [(old, month), (new, Duration::ZERO)] {
            let file = std::fs::File::create(demo.app.folders.uploads.join(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - age)
                .unwrap();
        }

        let id = demo.app.manager.run_schedule("sweep_uploads", "test").await;
        let swept = demo.app.manager.wait::<usize>(id.unwrap()).await.unwrap();

        assert_eq!(swept, 1);
        assert!(demo.app.folders.uploads.join(new).exists());
        assert!(!demo.app.folders.uploads.join(old).exists());
    }

    #[tokio::test]
    async fn one_demo_keeps_the_list_of_the_mails() {
        let demo = Demo::start().await;
        let outbox = &demo.app.folders.outbox;
        std::fs::write(outbox.join("b.eml"), "").unwrap();
        std::fs::write(outbox.join("a.eml"), "").unwrap();

        let keeps = housekeeping::list_mails(demo.app.manager.clone(), demo.app.folders.clone());
        tokio::spawn(keeps);
        let listed = tokio::time::timeout(Duration::from_secs(30), async {
            while std::fs::read_to_string(outbox.join("mails.txt")).is_err() {
                tokio::task::yield_now().await;
            }
        });
        listed.await.unwrap();

        let list = std::fs::read_to_string(outbox.join("mails.txt")).unwrap();
        assert_eq!(list, "a.eml\nb.eml\n");
        assert_eq!(demo.app.manager.holders().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_foreign_webhook_and_a_form_from_a_foreign_site_are_refused() {
        let demo = Demo::start().await;

        let foreign = demo
            .form("/webhook", "address=http%3A%2F%2Fexample.com%2F&message=x")
            .await;
        let request = demo.client.post(format!("{}/minute", demo.home));
        let forged = request
            .header("sec-fetch-site", "cross-site")
            .send()
            .await
            .unwrap();

        assert_eq!(foreign.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(forged.status(), StatusCode::FORBIDDEN);
    }

    #[tokio::test]
    async fn the_long_task_can_be_cancelled_from_the_page() {
        let demo = Demo::start().await;
        let id = task(&demo.form("/minute", "").await);
        let cancel = format!("task={id}");

        let answer = demo
            .post("/cancel", "application/x-www-form-urlencoded", cancel)
            .await;

        assert_eq!(task(&answer), id);
        assert!(demo.app.manager.wait::<()>(id).await.is_err());
        assert!(
            demo.text(&format!("/?task={id}"))
                .await
                .contains("Cancelled.")
        );
    }
}
