//! Pure: a service of the configuration → what is asked, and what counts as healthy. Every kind asks for more than a code, because each
//! has a state that answers 200 and serves nobody.

use std::net::SocketAddr;

use super::judge::{Check, Expect, Test};
use super::port::{Ask, Place, Trust, Verify};
use crate::site::{Service, ServiceKind};

/// What is asked of a service, of each of its addresses.
pub fn checks(service: &Service) -> Vec<Check> {
    let paths = paths(service);
    let of = |place: &Place, path: &str, any: &[Expect]| {
        let ask = Ask {
            target: service.target.below(path),
            place: place.clone(),
            trust: Trust { ca_file: service.ca_file.clone(), verify: Verify::Full },
            listen: !service.contains.is_empty(),
        };
        Check { ask, any: any.to_vec() }
    };
    let mut places: Vec<_> =
        service.resolve_to.iter().map(|address| Place::At(vec![SocketAddr::new(*address, service.target.port())])).collect();
    if places.is_empty() {
        places.push(Place::OfTarget);
    }
    places.iter().flat_map(|place| paths.iter().map(move |(path, any)| of(place, path, any))).collect()
}

fn paths(service: &Service) -> Vec<(&'static str, Vec<Expect>)> {
    match service.kind {
        ServiceKind::Http => vec![("", vec![as_configured(service)])],
        // Its installer says `pass` too, without checks (healthcheck.CheckInstall); that of the cache is made only where it has one.
        ServiceKind::Gitea => {
            vec![("/api/healthz", vec![json(&[("/status", "pass"), ("/checks/database:ping/0/status", "pass")])])]
        }
        ServiceKind::Grafana => vec![("/api/health", vec![json(&[("/database", "ok")])])],
        ServiceKind::Harbor => {
            let challenge = header(&[401], "www-authenticate", Test::Contains("Bearer realm=".to_owned()));
            // A proxy that answers for a registry that is not there says 200 and HTML.
            let open = header(&[200], "docker-distribution-api-version", Test::Contains("registry/2.0".to_owned()));
            vec![("/v2/", vec![challenge, open]), ("/api/v2.0/health", vec![json(&[("/status", "healthy")])])]
        }
        // While its set-up has not been finished it is as healthy, with no library.
        ServiceKind::Jellyfin => {
            let healthy = Expect { contains: "Healthy".to_owned(), ..codes(&[200]) };
            vec![("/health", vec![healthy]), ("/System/Info/Public", vec![json(&[("/StartupWizardCompleted", "true")])])]
        }
        ServiceKind::Keycloak => {
            let own = service.target.to_string();
            let issuer = if service.issuer.is_empty() { own.as_str() } else { service.issuer.as_str() };
            vec![("/.well-known/openid-configuration", vec![json(&[("/issuer", issuer)])])]
        }
        ServiceKind::Longhorn => {
            let redirect = header(&[302, 303, 307], "location", Test::LeadsToLogin);
            let challenge = header(&[401], "www-authenticate", Test::Contains(String::new()));
            vec![("/", vec![redirect, challenge])]
        }
        // A standby serves; one that is sealed says so with 503, and behind a Service another one answers: name each by `resolve_to`.
        ServiceKind::Vault => {
            vec![("/v1/sys/health?standbyok=true&perfstandbyok=true", vec![json(&[("/initialized", "true"), ("/sealed", "false")])])]
        }
        ServiceKind::Postgres | ServiceKind::Tls => vec![("", vec![Expect::default()])],
        ServiceKind::Tcp => vec![("", vec![Expect { contains: service.contains.clone(), ..Expect::default() }])],
    }
}

fn as_configured(service: &Service) -> Expect {
    let equals = service.json.iter().map(|(pointer, value)| (pointer.clone(), Test::Equals(value.clone())));
    let holds = service.json_contains.iter().map(|(pointer, value)| (pointer.clone(), Test::Contains(value.clone())));
    Expect {
        codes: service.accepted.clone(),
        headers: service.headers.iter().map(|(name, value)| (name.clone(), Test::Contains(value.clone()))).collect(),
        json: equals.chain(holds).collect(),
        contains: service.contains.clone(),
    }
}

fn codes(codes: &[u16]) -> Expect {
    Expect { codes: codes.iter().copied().collect(), ..Expect::default() }
}

fn json(values: &[(&str, &str)]) -> Expect {
    let json = values.iter().map(|(pointer, value)| ((*pointer).to_owned(), Test::Equals((*value).to_owned())));
    Expect { json: json.collect(), ..codes(&[200]) }
}

fn header(allowed: &[u16], name: &str, test: Test) -> Expect {
    Expect { headers: vec![(name.to_owned(), test)], ..codes(allowed) }
}
