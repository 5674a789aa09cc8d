//! The errors that a request may get (RFC 8489, section 14.8, RFC 8656, section 19, RFC 6062, section 6.3,
//! and RFC 8016, section 3.4).

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $phrase:literal;)*) => {
        /// Why a request was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }

        impl ErrorCode {
            /// All of them, in the order of their index.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The number, 300 to 699.
            #[must_use]
            pub const fn code(self) -> u16 {
                match self { $(Self::$name => $code,)* }
            }

            /// The phrase for people.
            #[must_use]
            pub const fn phrase(self) -> &'static str {
                match self { $(Self::$name => $phrase,)* }
            }
        }
    };
}

codes! {
    /// Another server takes new allocations.
    TryAlternate = 300, "Try Alternate";
    /// The request is malformed.
    BadRequest = 400, "Bad Request";
    /// No credentials, or wrong ones.
    Unauthenticated = 401, "Unauthenticated";
    /// The peer is not allowed.
    Forbidden = 403, "Forbidden";
    /// Allocations may not change the address of their client, or this one may not go there.
    MobilityForbidden = 405, "Mobility Forbidden";
    /// An attribute that must be understood is not.
    UnknownAttribute = 420, "Unknown Attribute";
    /// There is no allocation where one is needed, or one where none may be.
    AllocationMismatch = 437, "Allocation Mismatch";
    /// The nonce has expired.
    StaleNonce = 438, "Stale Nonce";
    /// No relayed addresses of that family here.
    AddressFamilyNotSupported = 440, "Address Family not Supported";
    /// The allocation is another user's.
    WrongCredentials = 441, "Wrong Credentials";
    /// Only UDP and TCP are relayed.
    UnsupportedTransport = 442, "Unsupported Transport Protocol";
    /// The peer's family is not the relayed address's.
    PeerAddressFamilyMismatch = 443, "Peer Address Family Mismatch";
    /// There is a connection with this peer, or one is being made.
    ConnectionAlreadyExists = 446, "Connection Already Exists";
    /// The peer could not be reached.
    ConnectionTimeoutOrFailure = 447, "Connection Timeout or Failure";
    /// The user, or the server, has all the allocations it may have.
    AllocationQuotaReached = 486, "Allocation Quota Reached";
    /// Something is wrong on this side.
    ServerError = 500, "Server Error";
    /// No port, no room.
    InsufficientCapacity = 508, "Insufficient Capacity";
}
