//! docker-compose.yml and the Dockerfile agree with the programs, the documents, and the files they name.

use std::collections::BTreeSet;

use serde_json::Value;

use super::code;
use super::facts::{Facts, assert_same};
use super::files::{pages, read, root};
use super::page::{self, Page};

const FILE: &str = "docker-compose.yml";

/// Variables of a program that docker-compose.yml has no use for: other ways to say where Postgres is, the address to
/// listen on, which is every address of a container, and a port that only its own health check knows.
const NOT_PASSED: [&str; 5] = ["DATABASE_URL", "DB_PG_PORT", "DB_DEFAULT", "HOST", "OPS_PORT"];

/// The image that the Dockerfile makes.
const OURS: &str = "flash-coupons";

/// Options of `docker compose` and of its commands that are followed by a value.
const WITH_VALUE: [&str; 4] = ["-p", "-s", "--scale", "--tail"];

/// docker-compose.yml, with its anchors and merges resolved.
fn file() -> Value {
    serde_saphyr::from_str(&read(FILE)).unwrap_or_else(|error| panic!("{FILE}: {error}"))
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().into_iter().flat_map(|map| map.keys().cloned()).collect()
}

/// All texts in a value, however deep. Those of a list or map are in its order.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(list) => list.iter().flat_map(texts).collect(),
        Value::Object(map) => map.values().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

/// The variables that are written as `${NAME:-default}`, with their defaults.
fn interpolated(value: &Value) -> Facts {
    let mut found = Facts::new();
    for rest in texts(value).into_iter().flat_map(|text| text.split("${").skip(1)) {
        let inside = rest.split('}').next().unwrap();
        let (name, default) =
            inside.split_once(":-").unwrap_or_else(|| panic!("{FILE}: {inside} has no default"));
        let before = found.insert(name.to_owned(), Some(default.to_owned()));
        assert!(
            before.is_none_or(|before| before.as_deref() == Some(default)),
            "{FILE}: {name} has two defaults"
        );
    }
    found
}

/// The variables that docker-compose.yml uses itself, and no program reads.
pub(super) fn variables() -> Vec<String> {
    interpolated(&file()).into_keys().filter(|name| name != "PORT").collect()
}

/// The variables and their defaults in the tables of configuration.md under headings that begin like these.
fn documented(headings: &[&str]) -> Facts {
    let page = Page::new("docs/configuration.md", read("docs/configuration.md"));
    let rows = headings.iter().flat_map(|heading| page.tables_under(heading)).flat_map(|table| table.rows);
    rows.map(|row| (page::name(&row[0]), Some(row[1].replace('`', "")))).collect()
}

/// The services that a line's `docker compose` commands name.
fn services_named(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for command in line.split("docker compose ").skip(1) {
        let command = command.split(['`', '#', '(', ')', ',']).next().unwrap();
        let (mut words, mut done) = (command.split_whitespace(), None);
        while let Some(word) = words.next() {
            if WITH_VALUE.contains(&word) {
                let value = words.next().unwrap_or_default();
                found.extend(
                    value.split_once('=').filter(|_| word == "--scale").map(|(name, _)| name.to_owned()),
                );
            } else if word.starts_with('-') {
            } else if let Some(done) = done {
                found.push(word.to_owned());
                // What follows the service is a command for its container.
                if ["exec", "run"].contains(&done) {
                    break;
                }
            } else {
                done = Some(word);
            }
        }
    }
    found
}

#[test]
fn commands_are_understood() {
    for (line, wanted) in [
        ("docker compose up --build --wait   # Postgres, NATS", &[][..]),
        ("`PORT=9090 docker compose -p second up --wait`", &[]),
        ("docker compose up --wait --scale api=3 --scale worker=4", &["api", "worker"]),
        ("`docker compose logs -f api` (also `worker`)", &["api"]),
        ("docker compose kill -s KILL worker", &["worker"]),
        ("docker compose up --wait --force-recreate api worker", &["api", "worker"]),
        ("docker compose exec postgres psql -U postgres coupon_db", &["postgres"]),
        ("docker compose run --rm nats-box nats stream report", &["nats-box"]),
        ("use `docker compose logs api` and", &["api"]),
    ] {
        assert_eq!(services_named(line), wanted, "{line}");
    }
    let value = serde_json::json!({"a": ["${A:-1} ${B:-}", {"b": "${A:-1}"}], "c": 1});
    let wanted: Facts = [("A".into(), Some("1".into())), ("B".into(), Some(String::new()))].into();
    assert_eq!(interpolated(&value), wanted);
}

#[test]
fn variables_are_passed_and_documented() {
    let file = file();
    for (service, headings) in [("api", &["API"][..]), ("worker", &["API and worker", "Worker"])] {
        let mut wanted = documented(headings);
        wanted.retain(|name, _| !NOT_PASSED.contains(&name.as_str()));
        let passed = keys(&file["services"][service]["environment"]).into_iter().map(|name| (name, None));
        assert_same(service, &wanted, &passed.collect());
    }

    let used = interpolated(&file);
    let mut wanted = documented(&["Docker Compose"]);
    wanted.extend(documented(&["API"]).into_iter().filter(|(name, _)| name == "PORT"));
    assert_same(FILE, &wanted, &used);

    let all = documented(&["API", "Worker", "Docker Compose"]);
    for name in code::env_file(&read(".env.example")).keys() {
        assert!(all.contains_key(name), ".env.example: {name} is not documented");
    }

    // Whoever migrates gives each program's role the password with which the program logs in.
    let environment = |service: &str| file["services"][service]["environment"].clone();
    let owner = environment("migrate");
    let wanted = [
        "DB_PG_HOST",
        "DB_PG_DATABASE",
        "DB_PG_USERNAME",
        "DB_PG_PASSWORD",
        "POSTGRES_API_PASSWORD",
        "POSTGRES_WORKER_PASSWORD",
        "PARTITIONS",
        "LOG_FORMAT",
        "RUST_LOG",
    ];
    assert_eq!(keys(&owner), wanted.map(str::to_owned).into());
    assert_eq!(owner["DB_PG_PASSWORD"], environment("postgres")["POSTGRES_PASSWORD"]);
    let migration = read("worker/src/migrate.rs");
    for service in ["api", "worker"] {
        let (own, role) = (environment(service), format!("coupon_{service}"));
        assert_eq!(own["DB_PG_USERNAME"], role.as_str());
        assert!(migration.contains(&format!("name: \"{role}\"")), "{role}");
        let given = &owner[format!("POSTGRES_{}_PASSWORD", service.to_uppercase())];
        assert!(given.is_string() && own["DB_PG_PASSWORD"] == *given, "{service}: {given}");
        for shared in ["DB_PG_HOST", "DB_PG_DATABASE", "PARTITIONS"] {
            assert_eq!(own[shared], owner[shared], "{service}: {shared}");
        }
    }

    // What the configuration of NATS reads is passed to it, and programs are users that it knows.
    let (nats, conf) = (keys(&file["services"]["nats"]["environment"]), read("nats.conf"));
    let read_there = conf.split("password: $").skip(1).filter_map(|rest| rest.split_whitespace().next());
    assert_eq!(read_there.map(str::to_owned).collect::<BTreeSet<_>>(), nats);
    for service in ["api", "worker", "nats-box"] {
        let user = file["services"][service]["environment"]["NATS_USER"].as_str().unwrap();
        assert!(conf.contains(&format!("user: {user}")), "nats.conf has no user {user}");
    }
}

#[test]
fn every_path_exists() {
    let file = file();
    let volumes = keys(&file["volumes"]);
    for (service, description) in file["services"].as_object().unwrap() {
        for mount in texts(&description["volumes"]) {
            let source = mount.split(':').next().unwrap();
            match source.strip_prefix("./") {
                Some(path) => assert!(root().join(path).is_file(), "{service}: there is no {path}"),
                None => assert!(volumes.contains(source), "{service}: no volume {source} is declared"),
            }
        }
        if let Some(context) = description["build"]["context"].as_str() {
            assert!(
                root().join(context).join("Dockerfile").is_file(),
                "{service}: no Dockerfile in {context}"
            );
        }
    }

    // What is not sent to the build is there, or may be; what Cargo reads is sent.
    let (ignored, untracked) = (read(".dockerignore"), read(".gitignore"));
    let ignored: Vec<&str> =
        ignored.lines().filter(|line| !line.starts_with('#') && !line.contains('*')).collect();
    for name in &ignored {
        let may_be = untracked.lines().any(|line| line.trim_matches('/') == *name);
        assert!(root().join(name).exists() || may_be, ".dockerignore: there is no {name}");
    }
    let manifest = read("Cargo.toml");
    let members = manifest
        .split("members = [")
        .nth(1)
        .unwrap()
        .split(']')
        .next()
        .unwrap()
        .split('"')
        .skip(1)
        .step_by(2);
    for name in members.chain(["Cargo.toml", "Cargo.lock", "migrations"]) {
        let top = name.split('/').next().unwrap();
        assert!(root().join(name).exists() && !ignored.contains(&top), ".dockerignore: Cargo needs {name}");
    }
}

#[test]
fn the_image_is_what_the_services_start() {
    let (file, dockerfile) = (file(), read("Dockerfile"));
    let code: Vec<&str> = dockerfile.lines().filter(|line| !line.starts_with('#')).collect();
    let words: Vec<&str> = code.iter().flat_map(|line| line.split_whitespace()).collect();
    let after = |word: &str| -> Vec<&str> {
        words.windows(2).filter(|pair| pair[0] == word).map(|pair| pair[1]).collect()
    };

    // The packages that are built have the programs that are copied.
    let manifests: String =
        after("-p").iter().map(|package| read(&format!("{package}/Cargo.toml"))).collect();
    let programs: BTreeSet<&str> =
        words.iter().filter_map(|word| word.strip_prefix("target/release/")).collect();
    assert!(!programs.is_empty());
    for program in &programs {
        assert!(manifests.contains(&format!("name = \"{program}\"")), "Dockerfile: nothing builds {program}");
    }
    let stages = after("AS");
    let copied_from = words.iter().filter_map(|word| word.strip_prefix("--from="));
    for stage in copied_from {
        assert!(stages.contains(&stage), "Dockerfile: there is no stage {stage}");
    }

    // The compiler is new enough, and both stages have the same C library.
    let (images, root_manifest) = (after("FROM"), read("Cargo.toml"));
    let wanted = root_manifest.split("rust-version = \"").nth(1).unwrap().split('"').next().unwrap();
    let minor =
        |version: &str| version.split('.').nth(1).unwrap().split('-').next().unwrap().parse::<u32>().unwrap();
    assert!(minor(images[0]) >= minor(wanted), "Dockerfile: {} is older than Rust {wanted}", images[0]);
    let release = |image: &str| image.split(['-', ':']).find(|part| *part == "trixie").map(str::to_owned);
    assert!(images.iter().all(|image| release(image) == release(images[0])), "Dockerfile: {images:?}");

    // One service builds it, with arguments that it takes; each starts a program of it.
    let services = file["services"].as_object().unwrap();
    let builds: Vec<&Value> =
        services.values().map(|service| &service["build"]).filter(|build| !build.is_null()).collect();
    assert_eq!(builds.len(), 1, "{FILE}: the image is built once");
    let taken: BTreeSet<String> = after("ARG").into_iter().map(str::to_owned).collect();
    assert_eq!(keys(&builds[0]["args"]), taken);
    for (name, service) in services.iter().filter(|(_, service)| service["image"] == OURS) {
        let command = texts(&service["command"]);
        let at = command.iter().position(|word| word.starts_with("coupon-")).unwrap();
        assert!(
            programs.contains(command[at]),
            "{FILE}: {name} starts {command:?}, which is not in the image"
        );
        let arguments = &command[at + 1..];
        assert!(arguments.is_empty() || arguments == ["migrate"], "{FILE}: {name} starts {command:?}");
    }

    // The gateway asks for the service by its name, at the port where it listens.
    let gateway = read("deploy/gateway/haproxy.cfg");
    let address = gateway.split("server-template api ").nth(1).unwrap().split_whitespace().nth(1).unwrap();
    let (service, port) = address.split_once(':').unwrap();
    assert_eq!(services[service]["environment"]["PORT"], port);
    assert_eq!(after("EXPOSE"), [port]);
}

#[test]
fn services_that_are_named_exist() {
    let services = keys(&file()["services"]);
    let mut named = 0;
    for page in pages() {
        for line in page.lines_with("docker compose ") {
            for service in services_named(line) {
                assert!(services.contains(&service), "{}: {line}: there is no service {service}", page.path);
                named += 1;
            }
        }
    }
    assert!(named > 10, "only {named} commands were found");
}

#[test]
fn every_container_is_confined() {
    let file = file();
    let services = file["services"].as_object().unwrap();
    // Those whose end is waited for.
    let needs = services.values().filter_map(|service| service["depends_on"].as_object()).flatten();
    let ending = needs.filter(|(_, needed)| needed["condition"] == "service_completed_successfully");
    let ending: BTreeSet<&str> = ending.map(|(name, _)| name.as_str()).collect();
    assert_eq!(ending, ["migrate"].into());
    for (name, service) in services {
        let is_tool = !service["profiles"].is_null();
        assert_eq!(service["cap_drop"], serde_json::json!(["ALL"]), "{name}");
        assert_eq!(service["security_opt"], serde_json::json!(["no-new-privileges:true"]), "{name}");
        assert!(service["mem_limit"].is_string(), "{name} may take all memory");
        assert!(service["privileged"].is_null() && service["cap_add"].is_null(), "{name}");
        let image = service["image"].as_str().unwrap();
        assert!(
            image == OURS || image.rsplit_once(':').is_some_and(|(_, tag)| tag != "latest"),
            "{name}: {image}"
        );
        for (needed, condition) in service["depends_on"].as_object().into_iter().flatten() {
            if ending.contains(needed.as_str()) {
                continue;
            }
            assert!(
                !file["services"][needed]["healthcheck"].is_null(),
                "{name}: nothing asks how {needed} is"
            );
            assert_eq!(condition["condition"], "service_healthy", "{name}");
        }
        if is_tool {
            continue;
        }
        assert_eq!(service["read_only"], true, "{name}");
        assert!(service["logging"]["options"]["max-size"].is_string(), "{name}: its log has no end");
        if ending.contains(name.as_str()) {
            assert_eq!(service["restart"], "no", "{name}");
            continue;
        }
        assert_eq!(service["restart"], "unless-stopped", "{name}");
        let test = texts(&service["healthcheck"]["test"]);
        assert!(test.first() == Some(&"CMD") && test.len() > 1, "{name}: its health check is not a command");
    }
    // The gateway alone is reached from outside.
    let published = services.iter().filter(|(_, service)| !service["ports"].is_null());
    assert_eq!(published.map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["gateway"]);
}
