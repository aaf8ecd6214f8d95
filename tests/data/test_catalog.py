from nnopt_lib.data.catalog import CATALOG


def test_every_file_has_a_public_address_and_a_hash():
    for entry in CATALOG.values():
        for file in entry.files:
            assert len(file.sha256) == 64 and file.addresses, file.path
            assert all(address.startswith(("https://", "http://")) for address in file.addresses)
