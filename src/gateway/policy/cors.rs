//! `cors`: which pages of other origins may read a response (Fetch standard, 3.2). The gateway speaks for the route: what
//! a backend says of it is replaced.

use std::sync::Arc;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method};

use crate::config::http::Cors as Configured;

const ANY: HeaderValue = HeaderValue::from_static("*");

/// A route's `cors`, ready to be sent.
#[derive(Debug)]
pub struct Cors {
    /// `None` = every one.
    origins: Option<Vec<String>>,
    credentials: bool,
    methods: HeaderValue,
    /// `None` = what is asked for.
    headers: Option<HeaderValue>,
    expose_headers: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
}

/// Whether this is a browser's question and not a request of somebody's code.
pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && headers.contains_key(ORIGIN) && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The method that it asks about, if this is such a question and names only one.
pub fn asked_method<'h>(method: &Method, headers: &'h HeaderMap) -> Option<&'h [u8]> {
    if !is_preflight(method, headers) {
        return None;
    }
    let mut values = headers.get_all(ACCESS_CONTROL_REQUEST_METHOD).iter();
    values.next().filter(|_| values.next().is_none()).map(HeaderValue::as_bytes)
}

impl Cors {
    /// Writes down once what is sent often.
    pub fn new(cors: &Configured) -> Self {
        let methods = cors.methods.iter().map(Method::as_str);
        let names = |names: &[http::HeaderName]| list(names.iter().map(http::HeaderName::as_str));
        Self {
            origins: cors.origins.clone(),
            credentials: cors.credentials,
            methods: list(methods),
            headers: cors.headers.as_deref().map(names),
            expose_headers: (!cors.expose_headers.is_empty()).then(|| names(&cors.expose_headers)),
            max_age: cors.max_age.map(|age| HeaderValue::from(age.as_secs())),
        }
    }

    /// The answer to a browser's question: nothing about CORS for an origin that is not listed, which is a no.
    pub fn preflight(&self, request: &HeaderMap) -> HeaderMap {
        let mut answer = HeaderMap::new();
        let vary = "origin, access-control-request-method, access-control-request-headers";
        answer.insert(VARY, HeaderValue::from_static(vary));
        let Some(origin) = self.grants(request) else { return answer };
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
        if let Some(headers) = self.headers.as_ref().or(request.get(ACCESS_CONTROL_REQUEST_HEADERS))
            && !headers.is_empty()
        {
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, headers.clone());
        }
        if let Some(age) = &self.max_age {
            answer.insert(ACCESS_CONTROL_MAX_AGE, age.clone());
        }
        if self.credentials {
            answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        answer
    }

    /// What Access-Control-Allow-Origin says to this request. An origin is compared byte by byte: browsers send scheme and
    /// host in small letters and no default port.
    fn grants(&self, request: &HeaderMap) -> Option<HeaderValue> {
        let mut values = request.get_all(ORIGIN).iter();
        let (Some(origin), None) = (values.next(), values.next()) else { return None };
        match &self.origins {
            None => Some(ANY),
            Some(origins) => origins.iter().any(|known| known.as_bytes() == origin.as_bytes()).then(|| origin.clone()),
        }
    }
}

/// Texts that were valid one by one are so with commas between them.
fn list<'t>(items: impl Iterator<Item = &'t str>) -> HeaderValue {
    let joined = items.collect::<Vec<_>>().join(", ");
    HeaderValue::try_from(joined).expect("methods and names of headers are tokens")
}

/// What a request's origin is told on its response.
#[derive(Debug)]
pub struct Granted {
    cors: Arc<Cors>,
    origin: Option<HeaderValue>,
}

impl Granted {
    /// To be asked before the request's header goes away.
    pub fn new(cors: &Arc<Cors>, request: &HeaderMap) -> Self {
        Self { cors: cors.clone(), origin: cors.grants(request) }
    }

    /// Puts it on a response, in place of what the backend says. What depends on the origin is marked so, also when there
    /// was none: a cache must not give the answer to one origin to another.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_EXPOSE_HEADERS] {
            headers.remove(name);
        }
        if self.cors.origins.is_some() {
            headers.append(VARY, HeaderValue::from_static("origin"));
        }
        let Some(origin) = &self.origin else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.cors.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(names) = &self.cors.expose_headers {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names.clone());
        }
    }
}
