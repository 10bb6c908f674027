"""What KEDA reads of a trigger. It ignores every other key without a word, so a typo would scale nothing.

Read from the `keda:"name=..."` tags of KEDA 2.21.0 (github.com/kedacore/keda, pkg/scalers/*_scaler.go);
tests/deploy/test_keda.py compares these lists with that source wherever Go can fetch it.
"""

VERSION = "v2.21.0"

#: Scaler -> keys of `metadata`.
METADATA = {
    "kafka": {
        "bootstrapServers", "consumerGroup", "topic", "partitionLimitation", "lagThreshold", "activationLagThreshold",
        "offsetResetPolicy", "allowIdleConsumers", "excludePersistentLag", "scaleToZeroOnInvalidOffset",
        "limitToPartitionsWithLag", "ensureEvenDistributionOfPartitions", "fullMetadata", "version", "tls",
        "unsafeSsl", "sasl", "saslTokenProvider", "awsRegion",
    },
    "prometheus": {
        "serverAddress", "query", "queryParameters", "threshold", "activationThreshold", "namespace",
        "customHeaders", "ignoreNullValues", "unsafeSsl", "awsRegion", "timeout", "identityOwner",
    },
    "cpu": {"value", "containerName"},
}  # fmt: skip
#: Scaler -> parameters that a TriggerAuthentication may hand it.
AUTHENTICATION = {
    "kafka": {
        "tls", "ca", "cert", "key", "keyPassword", "sasl", "username", "password", "saslTokenProvider", "scopes",
        "oauthTokenEndpointUri", "oauthExtensions", "keytab", "ccacheName", "realm", "kerberosConfig",
        "kerberosServiceName", "kerberosDisableFAST",
    },
}  # fmt: skip
#: How KEDA spells the mechanisms of `sasl`, by the name that STREAMS_KAFKA_SASL_MECHANISM has.
MECHANISMS = {
    "PLAIN": "plaintext",
    "SCRAM-SHA-256": "scram_sha256",
    "SCRAM-SHA-512": "scram_sha512",
    "OAUTHBEARER": "oauthbearer",
}
