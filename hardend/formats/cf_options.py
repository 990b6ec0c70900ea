# SPDX-License-Identifier: Apache-2.0
"""Names of the options of sendmail.cf: long, one letter, abbreviated (op guide 5.6, readcf.c)."""

from __future__ import annotations

_LETTERS = {
    "7": "SevenBitInput", "8": "EightBitMode", "A": "AliasFile", "a": "AliasWait", "B": "BlankSub",
    "b": "MinFreeBlocks", "C": "CheckpointInterval", "c": "HoldExpensive", "d": "DeliveryMode",
    "E": "ErrorHeader", "e": "ErrorMode", "F": "TempFileMode", "f": "SaveFromLine",
    "G": "MatchGECOS", "H": "HelpFile", "h": "MaxHopCount", "I": "ResolverOptions",
    "i": "IgnoreDots", "J": "ForwardPath", "j": "SendMimeErrors", "k": "ConnectionCacheSize",
    "K": "ConnectionCacheTimeout", "l": "UseErrorsTo", "L": "LogLevel", "m": "MeToo",
    "n": "CheckAliases", "o": "OldStyleHeaders", "O": "DaemonPortOptions", "p": "PrivacyOptions",
    "P": "PostmasterCopy", "q": "QueueFactor", "Q": "QueueDirectory", "R": "DontPruneRoutes",
    "r": "Timeout", "S": "StatusFile", "s": "SuperSafe", "T": "QueueTimeout", "t": "TimeZoneSpec",
    "U": "UserDatabaseSpec", "u": "DefaultUser", "V": "FallbackMXhost", "v": "Verbose",
    "w": "TryNullMXList", "x": "QueueLA", "X": "RefuseLA", "y": "RecipientFactor",
    "Y": "ForkEachJob", "z": "ClassFactor", "Z": "RetryFactor",
}  # fmt: skip

# In the order of sendmail 8.17, which matters to nobody: an abbreviation of two names is an error.
_WORDS = (
    "QueueSortOrder HostsFile MinQueueAge DefaultCharSet ServiceSwitchFile DialDelay "
    "NoRecipientAction SafeFileEnvironment MaxMessageSize ColonOkInAddr MaxQueueRunSize "
    "MaxDaemonChildren DontExpandCnames MustQuoteChars SmtpGreetingMessage UnixFromLine "
    "OperatorChars DontInitGroups SingleLineFromHeader AllowBogusHELO ConnectionRateThrottle "
    "UnsafeGroupWrites DoubleBounceAddress HostStatusDirectory SingleThreadDelivery RunAsUser "
    "RrtImpliesDsn PidFile DontBlameSendmail DontProbeInterfaces MaxRecipientsPerMessage "
    "DeadLetterDrop MaxAliasRecursion ConnectOnlyTo TrustedUser MaxMimeHeaderLength "
    "ControlSocketName MaxHeadersLength ProcessTitlePrefix DefaultAuthInfo AuthMechanisms "
    "ClientPortOptions DataFileBufferSize XscriptFileBufferSize ServerCertFile ServerKeyFile "
    "ClientCertFile ClientKeyFile CACertFile CACertPath DHParameters InputMailFilters Milter "
    "AuthOptions QueueFileMode CertFingerprintAlgorithm CipherList RandFile TLSSrvOptions "
    "BadRcptThrottle DeliverByMin MaxQueueChildren MaxRunnersPerQueue DirectSubmissionModifiers "
    "NiceQueueRun SharedMemoryKey AuthMaxBits MailboxDatabase UseMSP DelayLA FastSplit SoftBounce "
    "SharedMemoryKeyFile RejectLogInterval RequiresDirfsync ConnectionRateWindowSize CRLFile "
    "FallbackSmartHost AuthRealm CRLPath HeloName MaxNOOPCommands BadRcptShutdown "
    "BadRcptShutdownGood ServerSSLOptions ClientSSLOptions MaxQueueAge RejectNUL "
    "UseCompressedIPv6Addresses SSLEngine SSLEnginePath TLSFallbacktoClear SetCertAltnames "
    "SmtpUTF8 StrictTransportSecurity CipherSuites"
)
_NAMES = {name.lower(): name for name in (*_LETTERS.values(), *_WORDS.split())}


def option_name(written: str, *, short: bool) -> str:
    """Return the full name of an option, or what was written where sendmail would know none."""
    if short:
        return _LETTERS.get(written, written)
    lower = written.lower()
    if lower in _NAMES or not lower:
        return _NAMES.get(lower, written)
    matches = [name for key, name in _NAMES.items() if key.startswith(lower)]
    return matches[0] if len(matches) == 1 else written
