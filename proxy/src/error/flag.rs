//! Response flags.

/// Envoy's response flags, as far as this proxy raises them. The discriminant indexes metric arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ResponseFlag {
    /// No healthy (or no) endpoint in the cluster.
    UH,
    /// Upstream connection failure, TLS included.
    UF,
    /// Upstream request timeout.
    UT,
    /// Upstream connection ended before the response was complete.
    UC,
    /// Upstream reset the stream.
    UR,
    /// Upstream protocol error.
    UPE,
    /// No route.
    NR,
    /// Downstream connection ended.
    DC,
    /// Downstream protocol error.
    DPE,
    /// Stream idle timeout.
    SI,
    /// A loop was refused.
    LR,
    /// Memory is short.
    OM,
    /// As much of the cluster is in use as may be.
    UO,
}

impl ResponseFlag {
    /// Every flag, in the order of the discriminants.
    pub const ALL: [Self; 13] = [
        Self::UH,
        Self::UF,
        Self::UT,
        Self::UC,
        Self::UR,
        Self::UPE,
        Self::NR,
        Self::DC,
        Self::DPE,
        Self::SI,
        Self::LR,
        Self::OM,
        Self::UO,
    ];

    /// The flag as Envoy writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UH => "UH",
            Self::UF => "UF",
            Self::UT => "UT",
            Self::UC => "UC",
            Self::UR => "UR",
            Self::UPE => "UPE",
            Self::NR => "NR",
            Self::DC => "DC",
            Self::DPE => "DPE",
            Self::SI => "SI",
            Self::LR => "LR",
            Self::OM => "OM",
            Self::UO => "UO",
        }
    }
}
