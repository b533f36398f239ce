"""One message of every type, for golden bytes and round trips."""

from __future__ import annotations

from farflung.network import messages as m

NODE = "98ba85304ac639f0f55daab01ad6d592be44a125"
HASH = bytes(range(32))
_FENCE = {"term": 2, "round": 7, "attempt": 1}
_MEMBER = m.Member(node=NODE, endpoints=("198.51.100.7:7071", "[2001:db8::7]:7071"))

CONTROL: tuple[m.Control, ...] = (
    m.Redeem(invite="ff1abc", public_key=HASH, name="ann", region="eu"),
    m.Redeemed(certificate_pem="leaf", ca_pem="ca", run_key=HASH, run_name="quiet-otter"),
    m.Hello(
        protocol=1,
        arithmetic=1,
        run="0123456789abcdef",
        name="ann",
        region="eu",
        role="trainer",
        endpoints=("198.51.100.7:7071",),
        term=2,
        journal_length=300,
        journal_head=HASH,
        session="5e55",
        generation=4,
    ),
    m.Welcome(protocol=1, term=2, journal_length=300),
    m.Donors(members=(_MEMBER,)),
    m.Refuse(sentence="the run is full"),
    m.JournalFrames(first=299, frames=(b"one", b"two")),
    m.Synced(next_round=7, state_root=HASH, steps_per_s=2.5),
    m.Beat(
        steps=120,
        steps_per_s=2.5,
        phase="training",
        kept=True,
        up_bytes_per_s=2.5e6,
        down_bytes_per_s=1e7,
    ),
    m.Leave(reason="going home"),
    m.StatusRequest(),
    m.Status(json="{}"),
    m.Plan(
        term=2,
        round=7,
        fragment=1,
        generation=4,
        steps=20,
        ranges=((0, 64), (128, 160)),
        progress_start=0.25,
        progress_end=0.3,
    ),
    m.Ready(
        term=2,
        round=7,
        fragment=1,
        generation=4,
        trained=((0, 64),),
        base_round=-1,
        tokens=65_536,
        commitment=HASH,
        steps=20,
        loss_sum=81.5,
        compute_s=8.0,
        wait_s=0.5,
    ),
    m.Attempt(
        **_FENCE,
        fragment=1,
        candidates=(m.Candidate(node=NODE, generation=4, commitment=HASH),),
        slices=(m.Slice(first=0, stop=9, owner=NODE),),
        members=(_MEMBER,),
        deadline_s=30.0,
    ),
    m.Statistics(**_FENCE, slice=0, partials=(m.Partial(node=NODE, square=4.0, dot=2.0),)),
    m.Verdict(
        **_FENCE,
        included=(m.Included(node=NODE, weight=65_536, clip=0x3F800000),),
        divisor=65_536,
    ),
    m.Result(**_FENCE, slice=0, hash=HASH),
    m.Vote(**_FENCE, bytes_root=HASH, fragment_hash=HASH, signature=bytes(64)),
    m.Accuse(**_FENCE, nodes=(NODE,), kind="silent"),
    m.Moved(round=7, bytes_up=2**33, bytes_down=2**34, state_root=HASH),
    m.Evaluate(term=3, serial=2, next_round=20),
    m.Measured(
        term=3,
        serial=2,
        next_round=21,
        nats_per_token=2.5,
        bits_per_byte=1.5,
        tokens=8192,
        samples=(m.DrawnText(prompt="To be", text=", or not to be"),),
        took_s=1.5,
    ),
    m.DataHello(protocol=1, run="0123456789abcdef"),
    m.Fetch(hash=HASH, offset=4_194_304, length=1_048_576),
    m.Catalogue(),
    m.CatalogueReply(manifest=HASH, manifest_bytes=4096, next_round=7),
    m.Dispute(journal_length=299, hash=HASH),
    m.FetchJournal(first=120),
    m.InnerWanted(),
    m.InnerOffer(manifest=HASH, manifest_bytes=512, coming=True),
    m.Extend(request="5eed", wishes=("rounds=+100", "grace_s=5")),
    m.Extended(sentence="amended: rounds=+100"),
)

BULK: tuple[m.BulkHeader, ...] = (
    m.Contribution(**_FENCE, slice=0, first=0, stop=9, hashes=(HASH, HASH)),
    m.SliceResult(**_FENCE, slice=0, first=0, stop=9),
    m.Blob(hash=HASH, offset=0, missing=True),
)
