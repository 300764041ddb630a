#!/usr/bin/env python3
"""Has pkilint look certificates over, by all that it checks of RFC 5280.

    PYTHONPATH=target/python tests/certificates/lint.py FILE.pem...

Prints one line a certificate, and each finding that is a warning or worse. Ends with 1 where there is one that is not among
KNOWN, and with 77 where pkilint is missing.
"""

import re
import sys

try:
    from pkilint import document, loader
    from pkilint.pkix import certificate, extension, name
    from pkilint.validation import ValidationFindingSeverity
    from pyasn1.codec.der.decoder import decode as decode_slowly
except ImportError as error:
    print(f"skipped: {error}; `make python` installs it")
    sys.exit(77)

# Where pkilint takes less than RFC 5280 does, and what it is then that we write there.
KNOWN = {
    # It knows ftp, git, http, rtsp, ssh and telnet. RFC 3986 has no list of schemes, and SPIFFE's is registered with IANA.
    "pkix.invalid_uri_syntax": re.compile(r'Invalid URI syntax: "spiffe://[a-z0-9-]+(/[a-z0-9-]+)+"'),
    # It wants a dot. RFC 5280 section 4.2.1.6 takes RFC 1034 section 3.5, where one label is a name.
    "pkix.invalid_domain_name_syntax": re.compile(r'Invalid domain name syntax: "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"'),
}


def decode(substrate, asn1Spec):
    """Its own decoder; where an object identifier has an arc of more than 32 bits, the one that it took the place of."""
    try:
        return decode_quickly(substrate, asn1Spec=asn1Spec)
    except Exception as error:
        if "arc which is larger than 32-bits" not in str(error):
            raise
        return decode_slowly(substrate, asn1Spec=asn1Spec)


decode_quickly, document.decode_der = document.decode_der, decode


def linter():
    """What `lint_pkix_cert` is made of."""
    return certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )


def main(files):
    failed = False
    for path in files:
        with open(path, "rb") as file:
            parsed = loader.RFC5280CertificateDocumentLoader().load_pem_file(file, path)
        results = linter().validate(parsed.root)
        known, found = [], []
        for result in results:
            for finding in result.finding_descriptions:
                if finding.finding.severity > ValidationFindingSeverity.WARNING:
                    continue
                expected = KNOWN.get(finding.finding.code)
                of = known if expected and expected.fullmatch(finding.message or "") else found
                of.append(f"{finding.finding.code} at {result.node.path}: {finding.message}")
        said = "refused" if found else "good"
        print(f"{path}: {said}, {len(results)} results, known {len(known)}")
        for finding in found:
            print(f"  {finding}")
        failed |= bool(found) or not results
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
