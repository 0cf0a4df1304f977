//! Real reverse proxies, with the files of `examples/deploy` in front of services that a test started.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use servers::Port;
use tempfile::{TempDir, tempdir};

use crate::support::{DEADLINE, until};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nginx,
    Traefik,
}

/// What stands in the place of the ports that the files name.
pub(crate) struct Ports {
    pub(crate) instances: [u16; 2],
    pub(crate) dashboard: u16,
}

/// A proxy that runs. Killed when it is dropped, or when the test dies.
pub(crate) struct Proxy {
    kind: Kind,
    ports: Ports,
    web: Port,
    dashboard: Port,
    folder: TempDir,
    child: Child,
}

/// What Debian's nginx.conf has around the files in conf.d. In one folder, and so that nothing of it needs root. One
/// worker: each has turns of its own.
const NGINX: &str = "
    worker_processes 1;
    pid nginx.pid;
    error_log stderr notice;
    events {}
    http {
        access_log off;
        client_body_temp_path body;
        proxy_temp_path proxy;
        fastcgi_temp_path fastcgi;
        uwsgi_temp_path uwsgi;
        scgi_temp_path scgi;
        gzip on;
        include tasks.conf;
    }
";

impl Proxy {
    pub(crate) async fn start(kind: Kind, ports: Ports, is_sticky: bool) -> Self {
        let folder = tempdir().unwrap();
        let (web, dashboard) = (Port::free(), Port::free());
        let mut command = servers::mortal(kind.program(), "TERM");
        match kind {
            Kind::Nginx => {
                fs::write(folder.path().join("nginx.conf"), NGINX).unwrap();
                command.args([
                    "-c",
                    "nginx.conf",
                    "-e",
                    "stderr",
                    "-g",
                    "daemon off;",
                    "-p",
                ]);
                command.arg(folder.path());
            }
            Kind::Traefik => {
                command.arg("--configfile=traefik.yml");
            }
        }
        command.current_dir(folder.path());
        command.stdout(Stdio::null()).stdin(Stdio::null());
        let log = fs::File::create(folder.path().join("log")).unwrap();
        command.stderr(log.try_clone().unwrap()).stdout(log);
        write(&folder, kind, &ports, [&web, &dashboard], is_sticky);
        let child = command.spawn().unwrap();
        let mut proxy = Self {
            kind,
            ports,
            web,
            dashboard,
            folder,
            child,
        };
        proxy.answers().await;
        proxy
    }

    /// Where the service is.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.web.number)
    }

    /// Where the dashboard's own instance is.
    pub(crate) fn dashboard_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.dashboard.number)
    }

    /// Changes the configuration of a proxy that runs.
    pub(crate) fn set_sticky(&self, is_sticky: bool) {
        let ours = [&self.web, &self.dashboard];
        write(&self.folder, self.kind, &self.ports, ours, is_sticky);
        if self.kind == Kind::Nginx {
            self.signal(Signal::HUP); // what `nginx -s reload` sends
        } // Traefik watches the file.
    }

    /// Waits until requests come through to an instance.
    async fn answers(&mut self) {
        let (http, url) = (crate::support::http().build().unwrap(), self.url());
        until("the proxy passes requests on", async || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{:?} has ended: {status}", self.kind);
            }
            let answer = http.get(format!("{url}/tasks/health")).send().await.ok()?;
            (answer.status() == 200).then_some(())
        })
        .await;
    }

    fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.child), signal); // an error means that it has ended
    }
}

/// The files of the example, with other ports.
fn write(folder: &TempDir, kind: Kind, ports: &Ports, ours: [&Port; 2], is_sticky: bool) {
    let files: &[(&str, &str)] = match kind {
        Kind::Nginx => &[("nginx.conf", "tasks.conf")],
        Kind::Traefik => &[
            ("traefik-dynamic.yml", "traefik-dynamic.yml"),
            ("traefik.yml", "traefik.yml"),
        ],
    };
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/deploy");
    for (from, to) in files {
        let mut text = fs::read_to_string(examples.join(from)).unwrap();
        for (documented, port) in [
            (8001, ports.instances[0]),
            (8002, ports.instances[1]),
            (8003, ports.dashboard),
            (8080, ours[0].number),
            (8081, ours[1].number),
        ] {
            text = text.replace(
                &format!("127.0.0.1:{documented}"),
                &format!("127.0.0.1:{port}"),
            );
        }
        if is_sticky {
            text = text.replace("#sticky ", ""); // as the files say
        }
        let to = folder.path().join(to);
        if fs::read_to_string(&to).ok().as_ref() != Some(&text) {
            // In one step: Traefik may read at any time.
            let new = to.with_extension("new");
            fs::write(&new, text).unwrap();
            fs::rename(new, to).unwrap();
        }
    }
}

impl Kind {
    fn program(self) -> PathBuf {
        let (variable, places) = match self {
            Self::Nginx => ("TASKFLOW_TEST_NGINX", search("nginx")),
            Self::Traefik => ("TASKFLOW_TEST_TRAEFIK", search("traefik")),
        };
        if let Some(path) = env::var_os(variable) {
            return path.into();
        }
        let found = places.into_iter().find(|place| place.is_file());
        found.unwrap_or_else(|| {
            panic!(
                "{self:?} is missing: run tests/run, which installs it, or name it in {variable}"
            )
        })
    }
}

/// Where a program may be: where tests/run puts it, where the shell looks, and where Debian puts what root runs.
fn search(program: &str) -> Vec<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("..");
    let mut folders = vec![target.join("traefik/bin")];
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    folders.push("/usr/sbin".into());
    folders.iter().map(|folder| folder.join(program)).collect()
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.signal(match self.kind {
            Kind::Nginx => Signal::TERM,   // it has workers to end
            Kind::Traefik => Signal::KILL, // it would wait for open streams
        });
        let deadline = Instant::now() + DEADLINE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill(); // it may have ended just now
                let _ = self.child.wait();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log"));
            eprintln!("{:?} said:\n{}", self.kind, log.unwrap_or_default());
        }
    }
}
