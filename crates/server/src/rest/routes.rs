//! Which method answers a request: the HTTP rules of all methods of the descriptors, as a table.
//!
//! Invariant: built once, from our own descriptors. What a client sends only looks things up here.

use std::collections::BTreeSet;

use http::Method;
use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    MethodDescriptor,
};

use super::template::{RequestPath, Template};

/// What the body of a request fills.
#[derive(Clone, Debug)]
pub(super) enum BodyTarget {
    /// Nothing: the rule has no body.
    Nothing,
    /// The whole request message.
    Whole,
    /// One message field of it.
    Field(FieldDescriptor, MessageDescriptor),
}

/// One HTTP rule of one method.
#[derive(Debug)]
pub(super) struct Route {
    verb: Method,
    template: Template,
    /// The fields that the template binds; each a way from the request message to a string field.
    pub(super) bound: Vec<Vec<FieldDescriptor>>,
    pub(super) body: BodyTarget,
    pub(super) input: MessageDescriptor,
    pub(super) output: MessageDescriptor,
    pub(super) streams: bool,
    /// The path of the method in gRPC, as `/google.longrunning.Operations/GetOperation`.
    pub(super) grpc_path: String,
}

/// What a method and a path lead to.
pub(super) enum Found<'a> {
    /// A method, and what its template binds.
    Route(&'a Route, Vec<String>),
    /// The path is known with other HTTP methods only.
    OtherMethods(Vec<Method>),
    /// The resource is known, the verb after the colon is not.
    UnknownVerb,
    /// Nothing that we know.
    Nothing,
}

/// All routes.
#[derive(Debug)]
pub(super) struct Routes {
    /// The most specific first.
    routes: Vec<Route>,
    versions: BTreeSet<String>,
}

impl Routes {
    /// Reads the HTTP rules of all methods in a pool.
    ///
    /// # Errors
    /// A sentence, when a rule does not fit its method's messages: a fault in our `.proto` files.
    pub(super) fn new(pool: &DescriptorPool) -> Result<Self, String> {
        let http =
            pool.get_extension_by_name("google.api.http").ok_or("google.api.http is not in the pool")?;
        let mut routes = Vec::new();
        for service in pool.services() {
            for method in service.methods() {
                for rule in rules(&method, &http) {
                    routes
                        .push(route(&method, &rule).map_err(|why| format!("{}: {why}", method.full_name()))?);
                }
            }
        }
        routes.sort_by_key(|route: &Route| std::cmp::Reverse(route.template.weight()));
        let versions = routes.iter().filter_map(|route| route.template.first()).map(str::to_owned).collect();
        Ok(Self { routes, versions })
    }

    /// Whether a path belongs to an API of ours, known in all its parts or not.
    pub(super) fn covers(&self, path: &str) -> bool {
        RequestPath::new(path).is_some_and(|path| self.versions.contains(path.first()))
    }

    /// Finds the method that answers.
    pub(super) fn find(&self, method: &Method, path: &str) -> Found<'_> {
        let Some(cut) = RequestPath::new(path) else { return Found::Nothing };
        for route in self.routes.iter().filter(|route| route.verb == *method) {
            if let Some(texts) = route.template.bind(&cut) {
                return Found::Route(route, texts);
            }
        }
        let others: Vec<Method> = self
            .routes
            .iter()
            .filter(|route| route.verb != *method && route.template.matches(&cut))
            .map(|route| route.verb.clone())
            .collect();
        if !others.is_empty() {
            return Found::OtherMethods(others);
        }
        let known_without = |verb: &str| {
            let bare =
                path.strip_suffix(verb).and_then(|path| path.strip_suffix(':')).and_then(RequestPath::new);
            bare.is_some_and(|bare| self.routes.iter().any(|route| route.template.matches(&bare)))
        };
        match cut.verb() {
            Some(verb) if known_without(verb) => Found::UnknownVerb,
            _ => Found::Nothing,
        }
    }
}

/// The rules of a method: the first one and its additional bindings.
fn rules(method: &MethodDescriptor, http: &ExtensionDescriptor) -> Vec<DynamicMessage> {
    let options = method.options();
    if !options.has_extension(http) {
        return Vec::new();
    }
    let Some(first) = options.get_extension(http).as_message().cloned() else { return Vec::new() };
    let further = first.get_field_by_name("additional_bindings").map(|list| list.into_owned());
    let further = further.as_ref().and_then(|list| list.as_list()).unwrap_or_default();
    std::iter::once(first.clone())
        .chain(further.iter().filter_map(|rule| rule.as_message().cloned()))
        .collect()
}

/// Makes a route of a rule.
fn route(method: &MethodDescriptor, rule: &DynamicMessage) -> Result<Route, String> {
    let text = |field: &str| {
        let value = rule.get_field_by_name(field).map(|value| value.into_owned());
        value.and_then(|value| value.as_str().map(str::to_owned)).filter(|text| !text.is_empty())
    };
    let verbs = [
        ("get", Method::GET),
        ("put", Method::PUT),
        ("post", Method::POST),
        ("delete", Method::DELETE),
        ("patch", Method::PATCH),
    ];
    let (verb, path) = verbs
        .into_iter()
        .find_map(|(field, verb)| text(field).map(|path| (verb, path)))
        .ok_or("the HTTP rule has no path")?;
    if text("response_body").is_some() {
        return Err("response_body is not built".into());
    }
    if method.is_client_streaming() {
        return Err("a method that takes a stream has no form in REST".into());
    }
    let input = method.input();
    let template = Template::parse(&path).map_err(|why| why.to_string())?;
    let bound = template.fields().map(|field| way(&input, field)).collect::<Result<_, _>>()?;
    let body = match text("body").as_deref() {
        None => BodyTarget::Nothing,
        Some("*") => BodyTarget::Whole,
        Some(name) => {
            let field =
                input.get_field_by_name(name).ok_or_else(|| format!("no field {name} for the body"))?;
            match field.kind() {
                Kind::Message(message) if !field.is_list() && !field.is_map() => {
                    BodyTarget::Field(field, message)
                }
                _ => return Err(format!("the body's field {name} is no message")),
            }
        }
    };
    Ok(Route {
        verb,
        template,
        bound,
        body,
        output: method.output(),
        streams: method.is_server_streaming(),
        grpc_path: format!("/{}/{}", method.parent_service().full_name(), method.name()),
        input,
    })
}

/// The fields from a message to a string field, by a dotted path of proto names.
fn way(message: &MessageDescriptor, path: &str) -> Result<Vec<FieldDescriptor>, String> {
    let mut fields = Vec::new();
    let mut owner = Some(message.clone());
    for name in path.split('.') {
        let field = owner
            .as_ref()
            .and_then(|owner| owner.get_field_by_name(name))
            .filter(|field| !field.is_list() && !field.is_map())
            .ok_or_else(|| format!("no field {path} to bind"))?;
        owner = field.kind().as_message().cloned();
        fields.push(field);
    }
    match fields.last().map(FieldDescriptor::kind) {
        Some(Kind::String) => Ok(fields),
        _ => Err(format!("the field {path} is no string")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Routes {
        Routes::new(claviger_proto::pool()).expect("our own rules")
    }

    #[track_caller]
    fn check(method: Method, path: &str, expect: &str) {
        let routes = routes();
        let Found::Route(route, _) = routes.find(&method, path) else {
            panic!("{method} {path} leads nowhere")
        };
        assert_eq!(route.grpc_path, expect);
    }

    #[test]
    fn paths_that_clients_send_lead_to_their_methods() {
        let kms = "/google.cloud.kms.v1.KeyManagementService";
        let key = "/v1/projects/p/locations/l/keyRings/r/cryptoKeys/k";
        check(Method::GET, "/v1/projects/p/locations/l/keyRings", &format!("{kms}/ListKeyRings"));
        check(Method::POST, &format!("{key}:encrypt"), &format!("{kms}/Encrypt"));
        check(Method::POST, &format!("{key}/cryptoKeyVersions/1:encrypt"), &format!("{kms}/Encrypt"));
        check(
            Method::POST,
            &format!("{key}/cryptoKeyVersions/1:destroy"),
            &format!("{kms}/DestroyCryptoKeyVersion"),
        );
        check(Method::PATCH, key, &format!("{kms}/UpdateCryptoKey"));
        check(Method::GET, &format!("{key}:getIamPolicy"), "/google.iam.v1.IAMPolicy/GetIamPolicy");
        check(Method::POST, &format!("{key}:getIamPolicy"), "/google.iam.v1.IAMPolicy/GetIamPolicy");
        check(Method::POST, &format!("{key}:setIamPolicy"), "/google.iam.v1.IAMPolicy/SetIamPolicy");
        check(Method::GET, "/v1/projects/p/locations", "/google.cloud.location.Locations/ListLocations");
        let operations = "/google.longrunning.Operations";
        check(Method::GET, "/v2/operations/projects/p/instances/i/op", &format!("{operations}/GetOperation"));
        check(Method::GET, "/v2/operations/projects/p/operations", &format!("{operations}/ListOperations"));
        let admin = "/google.bigtable.admin.v2.BigtableInstanceAdmin";
        let tables = "/google.bigtable.admin.v2.BigtableTableAdmin";
        check(Method::POST, "/v2/projects/p/instances", &format!("{admin}/CreateInstance"));
        check(Method::PUT, "/v2/projects/p/instances/i", &format!("{admin}/UpdateInstance"));
        check(Method::POST, "/v2/projects/p/instances/i:getIamPolicy", &format!("{admin}/GetIamPolicy"));
        check(
            Method::POST,
            "/v2/projects/p/instances/i/tables/t:getIamPolicy",
            &format!("{tables}/GetIamPolicy"),
        );
        check(
            Method::POST,
            "/v2/projects/p/instances/i/tables/t:readRows",
            "/google.bigtable.v2.Bigtable/ReadRows",
        );
        check(Method::POST, "/v2/projects/p/instances/i:ping", "/google.bigtable.v2.Bigtable/PingAndWarm");
    }

    #[test]
    fn what_is_not_there_is_told_apart() {
        let routes = routes();
        let key = "/v1/projects/p/locations/l/keyRings/r/cryptoKeys/k";
        assert!(
            matches!(routes.find(&Method::DELETE, key), Found::OtherMethods(methods) if methods.len() == 2)
        );
        assert!(matches!(routes.find(&Method::POST, &format!("{key}:paint")), Found::UnknownVerb));
        assert!(matches!(routes.find(&Method::GET, "/v1/nothing/here"), Found::Nothing));
        assert!(matches!(routes.find(&Method::GET, "/v1/nothing:here"), Found::Nothing));
        assert!(matches!(routes.find(&Method::OPTIONS, "*"), Found::Nothing));
        assert!(routes.covers("/v1/nothing/here") && routes.covers("/v2"));
        for path in ["/", "/metrics", "/v9/x", "*", ""] {
            assert!(!routes.covers(path), "{path} in {:?}", routes.versions);
        }
    }

    #[test]
    fn no_two_methods_claim_the_same_request() {
        let routes = routes().routes;
        for (index, route) in routes.iter().enumerate() {
            for other in &routes[index + 1..] {
                assert!(
                    route.verb != other.verb || route.template != other.template,
                    "{} and {} share {:?}",
                    route.grpc_path,
                    other.grpc_path,
                    route.template
                );
            }
        }
    }
}
