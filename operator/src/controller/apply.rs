//! Writes the plan, and nothing that stands as it shall.

use std::{collections::HashMap, sync::Mutex};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{
        DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams, Preconditions,
        ValidationDirective,
    },
};
use rtc_operator_api::{ADOPT_ANNOTATION, RtcCluster};
use serde_json::{Value, json};

use super::{
    Context, Error, FIELD_MANAGER,
    dereference::{Observed, api},
    plan::Plan,
    pods::DRAINING_ANNOTATION,
    poll,
};
use crate::{
    build::{Desired, FILES_ANNOTATION, Kind, daemonset, fingerprint},
    drain::Move,
    rotation,
};

/// The annotation that tells from what an object was last applied, so that a field that is no longer wanted is
/// noticed, by the next operator too.
const APPLIED_ANNOTATION: &str = "rtc-operator.dev/applied";

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Whether the key ring stands as planned.
    pub ring: bool,
    /// The TURN pods whose move was made.
    pub moved: Vec<String>,
    /// The first thing that went wrong. What does not depend on it was done all the same.
    pub error: Option<Error>,
}

/// Objects as the API server keeps them, where that differs in notation from what was applied.
#[derive(Default)]
pub struct Written {
    /// By object, what it was applied from, and a fingerprint of what it has instead.
    kept: Mutex<HashMap<String, (u64, u64)>>,
    /// When a status was last written, in Unix seconds.
    pub(super) statuses: Mutex<HashMap<String, u64>>,
}

/// Writes what differs.
pub async fn apply(cluster: &RtcCluster, observed: &Observed, plan: &Plan, context: &Context) -> Outcome {
    let mut outcome = Outcome::default();
    if !plan.acts {
        return outcome;
    }
    let namespace = cluster.namespace().unwrap_or_default();
    for desired in &plan.objects {
        let live = observed.object(desired.kind, &desired.name);
        let strange = live.is_some_and(|live| adoptable(cluster, live));
        if let (Kind::Secret, true, Some(why)) = (desired.kind, strange, &plan.ring.rebuilt) {
            outcome.error = Some(Error::NotAdopted { secret: desired.name.clone(), why: why.clone() });
            return outcome;
        }
        match write(cluster, &namespace, desired, live, context).await {
            Ok(()) if desired.kind == Kind::Secret => {
                outcome.ring = true;
                if let Err(error) = drop_retired(&namespace, &desired.name, observed, plan, context).await {
                    outcome.error.get_or_insert(error);
                }
            }
            Ok(()) => {}
            Err(error) => {
                outcome.error.get_or_insert(error);
                // Without the ring or the fleet, pods must not be told of them.
                if matches!(desired.kind, Kind::Secret | Kind::ConfigMap) {
                    return outcome;
                }
            }
        }
    }
    for (kind, name) in &plan.remove {
        if let Err(error) = remove(cluster, &namespace, *kind, name, observed, context).await {
            outcome.error.get_or_insert(error);
        }
    }
    for (pod, next) in &plan.moves {
        match make(&namespace, pod, *next, observed, plan, context).await {
            Ok(()) => outcome.moved.push(pod.clone()),
            Err(error) => drop(outcome.error.get_or_insert(error)),
        }
    }
    for pod in &plan.refresh {
        // A kubelet looks at a pod's volumes again when the pod changes, rather than a minute later.
        if let Err(error) = annotate(&namespace, pod, FILES_ANNOTATION, json!(plan.files), context).await {
            outcome.error.get_or_insert(error);
        }
    }
    outcome
}

/// Whether there is anything that [`apply`] would write.
#[must_use]
pub fn is_due(observed: &Observed, plan: &Plan, namespace: &str, context: &Context) -> bool {
    let stands = |desired: &Desired| {
        let (hash, value) = stamp(desired);
        let key = written_as(namespace, desired);
        let live = observed.object(desired.kind, &desired.name);
        live.is_some_and(|live| context.written.stands(&key, hash, &value, &json!(live)))
    };
    let moves = !plan.remove.is_empty() || !plan.moves.is_empty() || !plan.refresh.is_empty();
    plan.acts && (moves || !plan.objects.iter().all(stands))
}

fn written_as(namespace: &str, desired: &Desired) -> String {
    format!("{namespace}/{} {}", desired.kind.name(), desired.name)
}

async fn write(
    cluster: &RtcCluster,
    namespace: &str,
    desired: &Desired,
    live: Option<&DynamicObject>,
    context: &Context,
) -> Result<(), Error> {
    let what = format!("{} {}", desired.kind.name(), desired.name);
    match (live.is_some_and(|live| !owned(cluster, live)), desired.kind) {
        (false, _) => {}
        (true, Kind::Secret) if live.is_some_and(|live| adoptable(cluster, live)) => {
            tracing::info!(namespace, what, "adopting its keys");
        }
        (true, Kind::Secret) => return Err(Error::ForeignKeys(desired.name.clone(), cluster.name_any())),
        (true, _) => return Err(Error::Foreign(what)),
    }
    let (hash, value) = stamp(desired);
    let key = written_as(namespace, desired);
    if let Some(live) = live
        && context.written.stands(&key, hash, &value, &json!(live))
    {
        return Ok(());
    }
    if let Some(live) = live {
        hand_over_replicas(cluster, namespace, desired, live, context).await?;
    }
    let value = match live {
        None if desired.kind == Kind::Secret => claim(namespace, desired, value, context).await?,
        _ => value,
    };
    let params = PatchParams {
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply(FIELD_MANAGER).force()
    };
    let applied = api(context, namespace, desired.kind)
        .patch(&desired.name, &params, &Patch::Apply(&value))
        .await
        .map_err(|source| Error::Apply { what: what.clone(), source: Box::new(source) })?;
    tracing::info!(namespace, what, "applied");
    context.metrics.wrote(desired.kind.name());
    context.written.keep(key, hash, &value, &json!(applied));
    Ok(())
}

/// Makes the Secret without its data, and returns what fills it in. To apply creates what is not there, but also
/// writes over what somebody made a moment before; a ring must never be written over, so one of two that begin at
/// once is refused here, and the other is refused if it was changed before it is filled.
async fn claim(
    namespace: &str,
    desired: &Desired,
    mut value: Value,
    context: &Context,
) -> Result<Value, Error> {
    let error = |source| Error::Apply {
        what: format!("{} {}", desired.kind.name(), desired.name),
        source: Box::new(source),
    };
    let mut empty = value.clone();
    if let Some(fields) = empty.as_object_mut() {
        fields.remove("data");
    }
    let empty: DynamicObject =
        serde_json::from_value(empty).map_err(|source| error(kube::Error::SerdeError(source)))?;
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let made = api(context, namespace, desired.kind).create(&params, &empty).await.map_err(error)?;
    value["metadata"]["resourceVersion"] = json!(made.resource_version());
    Ok(value)
}

/// Takes keys that have left the ring out of the Secret where somebody else put them in: what is applied no longer
/// leaves only if nobody else ever wrote it.
async fn drop_retired(
    namespace: &str,
    name: &str,
    observed: &Observed,
    plan: &Plan,
    context: &Context,
) -> Result<(), Error> {
    let before = rotation::as_it_is(&observed.ring).ring.keys;
    let left: serde_json::Map<_, _> = before
        .iter()
        .filter(|key| plan.ring.ring.get(&key.id).is_none())
        .map(|key| (key.id.to_string(), Value::Null))
        .collect();
    if left.is_empty() {
        return Ok(());
    }
    let patch = Patch::Merge(json!({"data": left}));
    let patched = api(context, namespace, Kind::Secret).patch(name, &PatchParams::default(), &patch).await;
    patched.map(drop).map_err(|source| Error::Apply {
        what: format!("keys that are no longer in the ring out of Secret {name}"),
        source: Box::new(source),
    })
}

/// Who has the number of replicas from when the operator lets go of it until the autoscaler sets it.
const HANDOVER_MANAGER: &str = "rtc-operator-handover";

/// A field that its only owner no longer applies goes back to its default: one replica, whatever the load is. So
/// another owner takes it over first, at a number that the autoscaler acts on (it leaves 0 alone).
async fn hand_over_replicas(
    cluster: &RtcCluster,
    namespace: &str,
    desired: &Desired,
    live: &DynamicObject,
    context: &Context,
) -> Result<(), Error> {
    let Some(scaling) = &cluster.spec.signaling.autoscaling else { return Ok(()) };
    if desired.kind != Kind::Deployment || !desired.value["spec"]["replicas"].is_null() {
        return Ok(());
    }
    if !only_ours(live, "f:replicas") {
        return Ok(());
    }
    let now = live.data["spec"]["replicas"].as_i64().unwrap_or(0);
    // The lower bound wins where the upper one is below it, as it does not pass the schema.
    let replicas = now.min(scaling.max_replicas.into()).max(scaling.min_replicas.into());
    let value = json!({
        "apiVersion": desired.kind.api_version(),
        "kind": desired.kind.name(),
        // Not over what anybody wrote in between.
        "metadata": {"name": desired.name, "resourceVersion": live.resource_version()},
        "spec": {"replicas": replicas},
    });
    let params = PatchParams::apply(HANDOVER_MANAGER).force();
    let deployments = api(context, namespace, desired.kind);
    deployments.patch(&desired.name, &params, &Patch::Apply(&value)).await.map_err(|source| {
        Error::Apply {
            what: format!("the replicas of Deployment {}", desired.name),
            source: Box::new(source),
        }
    })?;
    tracing::info!(namespace, deployment = desired.name, replicas, "handed the replicas to the autoscaler");
    Ok(())
}

/// Whether the operator is the only owner of a field of the spec.
fn only_ours(live: &DynamicObject, field: &str) -> bool {
    let owners: Vec<_> = live
        .managed_fields()
        .iter()
        .filter(|entry| {
            entry.fields_v1.as_ref().is_some_and(|fields| fields.0["f:spec"].get(field).is_some())
        })
        .map(|entry| entry.manager.as_deref())
        .collect();
    owners == [Some(FIELD_MANAGER)]
}

fn owned(cluster: &RtcCluster, live: &DynamicObject) -> bool {
    live.owner_references().iter().any(|owner| Some(&owner.uid) == cluster.metadata.uid.as_ref())
}

/// Whether somebody has given a Secret to this cluster, and no controller has it.
fn adoptable(cluster: &RtcCluster, live: &DynamicObject) -> bool {
    let given = live.annotations().get(ADOPT_ANNOTATION);
    given.is_some() && given == cluster.metadata.name.as_ref() && live.owner_references().is_empty()
}

/// The object with the annotation that tells what it was applied from.
fn stamp(desired: &Desired) -> (u64, Value) {
    let mut value = desired.value.clone();
    let version = value["metadata"].as_object_mut().and_then(|metadata| metadata.remove("resourceVersion"));
    let hash = fingerprint(&value.to_string());
    value["metadata"]["annotations"][APPLIED_ANNOTATION] = json!(format!("{hash:016x}"));
    if let Some(version) = version {
        value["metadata"]["resourceVersion"] = version;
    }
    (hash, value)
}

impl Written {
    fn stands(&self, key: &str, hash: u64, desired: &Value, live: &Value) -> bool {
        let (same, projection) = compare(desired, live);
        let kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        same || kept.get(key) == Some(&(hash, fingerprint(&projection.to_string())))
    }

    /// Forgets a cluster that is gone, and what was its.
    pub(super) fn forget(&self, metadata: &ObjectMeta) {
        let (namespace, cluster) = (metadata.namespace.as_deref(), metadata.name.as_deref());
        let (namespace, cluster) = (namespace.unwrap_or_default(), cluster.unwrap_or_default());
        let mut kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (kind, suffix) in super::dereference::OWNED {
            kept.remove(&format!("{namespace}/{} {cluster}-{suffix}", kind.name()));
        }
        let mut statuses = self.statuses.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        statuses.remove(&format!("{namespace}/{cluster}"));
    }

    /// Notes how the API server keeps what was applied, where it writes it in another way.
    fn keep(&self, key: String, hash: u64, desired: &Value, live: &Value) {
        let (same, projection) = compare(desired, live);
        let mut kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if same {
            kept.remove(&key);
        } else {
            kept.insert(key, (hash, fingerprint(&projection.to_string())));
        }
    }
}

/// Whether an object has what is desired, in the same words; and what it has instead.
fn compare(desired: &Value, live: &Value) -> (bool, Value) {
    let mut desired = desired.clone();
    if let Some(metadata) = desired.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    let projection = project(live, &desired);
    (projection == desired, projection)
}

/// Of `value`, the fields that `shape` has.
fn project(value: &Value, shape: &Value) -> Value {
    match (value, shape) {
        (Value::Object(fields), Value::Object(shape)) => Value::Object(
            shape
                .iter()
                // What is empty is not kept by the API server, and says nothing.
                .filter_map(|(name, shape)| match fields.get(name) {
                    Some(field) => Some((name.clone(), project(field, shape))),
                    None if is_empty(shape) => Some((name.clone(), shape.clone())),
                    None => None,
                })
                .collect(),
        ),
        (Value::Array(items), Value::Array(shapes)) => Value::Array(
            items
                .iter()
                .enumerate()
                .map(|(index, item)| project(item, shapes.get(index).unwrap_or(item)))
                .collect(),
        ),
        (value, _) => value.clone(),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

async fn remove(
    cluster: &RtcCluster,
    namespace: &str,
    kind: Kind,
    name: &str,
    observed: &Observed,
    context: &Context,
) -> Result<(), Error> {
    let Some(live) = observed.object(kind, name).filter(|live| owned(cluster, live)) else { return Ok(()) };
    let exactly = Preconditions { uid: live.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(exactly), ..DeleteParams::background() };
    match api(context, namespace, kind).delete(name, &params).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => {
            Err(Error::Apply { what: format!("{} {name}", kind.name()), source: Box::new(source) })
        }
        Ok(_) => {
            tracing::info!(namespace, kind = kind.name(), name, "removed");
            Ok(())
        }
    }
}

async fn make(
    namespace: &str,
    name: &str,
    next: Move,
    observed: &Observed,
    plan: &Plan,
    context: &Context,
) -> Result<(), Error> {
    match next {
        Move::Mark => {
            annotate(namespace, name, DRAINING_ANNOTATION, json!(observed.now.to_string()), context).await
        }
        Move::Unmark => annotate(namespace, name, DRAINING_ANNOTATION, Value::Null, context).await,
        Move::Drain(deadline) => {
            let admin = observed.turn.iter().find(|pod| pod.name == name).and_then(|pod| pod.admin);
            if let Some((ip, port)) = admin
                && let Err(error) = poll::drain(ip, port, &plan.ring.token, deadline).await
            {
                // It is asked again until its deadline; there is nothing else to do.
                tracing::warn!(pod = name, %error, "cannot tell it to drain");
            }
            Ok(())
        }
        Move::Delete { .. } => {
            let pods = Api::<Pod>::namespaced(context.client.clone(), namespace);
            // Its calls have ended, or have had their time.
            match pods.delete(name, &DeleteParams::default().grace_period(daemonset::CUT)).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                Err(source) => Err(Error::Apply { what: format!("Pod {name}"), source: Box::new(source) }),
                Ok(_) => Ok(()),
            }
        }
    }
}

async fn annotate(
    namespace: &str,
    pod: &str,
    key: &str,
    value: Value,
    context: &Context,
) -> Result<(), Error> {
    let pods = Api::<Pod>::namespaced(context.client.clone(), namespace);
    let patch = json!({"metadata": {"annotations": {key: value}}});
    match pods.patch_metadata(pod, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => Err(Error::Apply { what: format!("Pod {pod}"), source: Box::new(source) }),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_is_known_by_its_fields_and_others_do_not_matter() {
        let written = Written::default();
        let desired = json!({"metadata": {"name": "a"}, "spec": {"list": [{"a": 1}], "none": {}}});
        let live =
            json!({"metadata": {"name": "a", "uid": "u"}, "spec": {"list": [{"a": 1, "b": 2}], "c": 3}});
        assert!(written.stands("a", 1, &desired, &live));
        let changed = json!({"metadata": {"name": "a"}, "spec": {"list": [{"a": 2, "b": 2}], "c": 3}});
        assert!(!written.stands("a", 1, &desired, &changed));
        let longer = json!({"metadata": {"name": "a"}, "spec": {"list": [{"a": 1}, {"a": 9}], "c": 3}});
        assert!(!written.stands("a", 1, &desired, &longer));
    }

    #[test]
    fn another_notation_of_the_api_server_is_written_once() {
        let written = Written::default();
        let desired = json!({"cpu": "1000m"});
        let live = json!({"cpu": "1", "more": true});
        assert!(!written.stands("a", 1, &desired, &live));
        written.keep("a".into(), 1, &desired, &live);
        assert!(written.stands("a", 1, &desired, &live));
        assert!(!written.stands("a", 1, &desired, &json!({"cpu": "2"})));
        assert!(!written.stands("a", 2, &desired, &live));
    }
}
