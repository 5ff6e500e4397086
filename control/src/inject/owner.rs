//! The workload a pod belongs to, which names it in traces.

use serde_json::Value;

/// A workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `Deployment`, `StatefulSet`, `DaemonSet`, `ReplicaSet`, `Job`, `CronJob`, or another.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl Owner {
    /// A workload.
    #[must_use]
    pub fn new(kind: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind: kind.into(), name: name.into() }
    }

    /// The workload of a pod as the API server knows it, by its controller: of a Deployment's ReplicaSet the Deployment.
    /// A CronJob's Job cannot be told from another by its pod, so it counts as a Job.
    #[must_use]
    pub fn of_pod(pod: &Value) -> Option<Self> {
        let references = pod.pointer("/metadata/ownerReferences")?.as_array()?;
        let controls = |reference: &&Value| reference.get("controller") == Some(&Value::Bool(true));
        let owner = references.iter().find(controls).or_else(|| references.first())?;
        let text = |name: &str| owner.get(name).and_then(Value::as_str);
        let (kind, name) = (text("kind")?, text("name")?);
        let hash = pod.pointer("/metadata/labels/pod-template-hash").and_then(Value::as_str);
        let deployment = hash.and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'));
        Some(match deployment {
            Some(deployment) if kind == "ReplicaSet" && !deployment.is_empty() => Self::new("Deployment", deployment),
            _ => Self::new(kind, name),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_deployment_is_seen_through_its_replica_set() {
        let pod = |kind: &str, name: &str| {
            json!({"metadata": {
                "labels": {"pod-template-hash": "7c5d"},
                "ownerReferences": [{"kind": "Node", "name": "n"}, {"kind": kind, "name": name, "controller": true}],
            }})
        };
        assert_eq!(Owner::of_pod(&pod("ReplicaSet", "web-7c5d")), Some(Owner::new("Deployment", "web")));
        assert_eq!(Owner::of_pod(&pod("ReplicaSet", "plain")), Some(Owner::new("ReplicaSet", "plain")));
        assert_eq!(Owner::of_pod(&pod("Job", "sums")), Some(Owner::new("Job", "sums")));
        assert_eq!(Owner::of_pod(&json!({})), None);
    }
}
