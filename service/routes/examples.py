"""One example of every answer, for the OpenAPI document; a test holds each against its model."""

from typing import Any

MODEL_ID, SPACE_ID = "d4f0e928dc9061ad" * 4, "064c33354a3d4954" * 4
MOMENT, LATER = "2026-01-31T12:00:00Z", "2026-01-31T12:05:00.250000Z"
NAME = "20260131T120500Z-1.tar"

EMBEDDED: dict[str, Any] = {
    "model_id": MODEL_ID,
    "dim": 2048,
    "results": [
        {"index": 0, "embedding": [0.0123, -0.0456]},
        {
            "index": 1,
            "error": {"code": "undecodable_image", "message": "got an empty file, wanted a JPEG, PNG, WebP or BMP picture"},
        },
    ],
}
ENROLLED: dict[str, Any] = {
    "model_id": MODEL_ID,
    "results": [{"index": 0, "entry_id": 17, "pid": "alice", "duplicate": False}],
}
FOUND: dict[str, Any] = {
    "model_id": MODEL_ID,
    "decision": "match",
    "threshold": 0.4665,
    "threshold_source": "calibration of 2026-01-31 12:00 on Market-1501 (query and gallery lists)",
    "matches": [
        {
            "rank": 1,
            "pid": "alice",
            "cosine": 0.8315,
            "rerank_distance": None,
            "entry_id": 17,
            "camid": "entrance",
            "captured_at": MOMENT,
            "entries": 2,
        }
    ],
    "searched": {"entries": 12_000, "identities": 800},
    "took_ms": {"embed": 21.4, "search": 3.1, "rerank": None},
    "rejected": [],
}
ENTRY: dict[str, Any] = {
    "entry_id": 17,
    "pid": "alice",
    "camid": "entrance",
    "captured_at": MOMENT,
    "enrolled_at": LATER,
    "attributes": {"site": "north"},
    "model_id": MODEL_ID,
    "has_crop": True,
}
ENTRIES: dict[str, Any] = {"entries": [ENTRY], "next_cursor": None}
IDENTITY: dict[str, Any] = {
    "pid": "alice",
    "entries": 1,
    "camids": ["entrance"],
    "first_seen": MOMENT,
    "last_seen": MOMENT,
}
IDENTITIES: dict[str, Any] = {"identities": [IDENTITY], "next_cursor": None}
IDENTITY_PAGE: dict[str, Any] = {"identity": IDENTITY, "entries": [ENTRY], "next_cursor": None}
RENAMED: dict[str, Any] = {"identity": IDENTITY, "moved": 1, "dropped": 0}
RECEIPT: dict[str, Any] = {"pid": "alice", "entries": 2, "vectors": 2, "crops": 2, "answers": 1}
DELETED: dict[str, Any] = {"entry_id": 17, "deleted": True}
STATS: dict[str, Any] = {
    "entries": 12_000,
    "identities": 800,
    "cameras": 6,
    "bytes": 61_440_000,
    "index_type": "exact",
    "space_id": SPACE_ID,
    "schema_version": 2,
    "dim": 2048,
}
SNAPSHOT: dict[str, Any] = {
    "name": NAME,
    "size": 61_450_240,
    "sha256": "9f86d081884c7d65" * 4,
    "entries": 12_000,
    "created_at": LATER,
}
SNAPSHOTS: dict[str, Any] = {"snapshots": [SNAPSHOT]}
MODEL: dict[str, Any] = {
    "model_id": MODEL_ID,
    "space_id": SPACE_ID,
    "dim": 2048,
    "runtime": {"name": "onnxruntime", "version": "1.32.0", "provider": "CPUExecutionProvider"},
    "architecture": "resnet50-bnneck",
    "input": {"name": "crops", "height": 192, "width": 96, "dtype": "uint8", "layout": "NHWC", "channels": "RGB"},
    "preprocessing": {"resize": "bilinear", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    "precision": "int8",
    "thresholds": {"default": 0.5689, "margin": 0.0507, "far": {"0.01": 0.4227, "0.001": 0.5689}, "source": "Market-1501"},
    "metrics": {"mAP": 0.36},
}
ALIVE: dict[str, Any] = {"alive": True}
READY: dict[str, Any] = {"ready": True, "parts": {"model": "ready", "gallery": "ready"}}
CALIBRATION: dict[str, Any] = {
    "schema_version": 1,
    "model_id": MODEL_ID,
    "source": "800 of 800 enrolled identities that two cameras saw",
    "created_at": MOMENT,
    "method": "thresholds from every pair of crops; 95% intervals by a bootstrap over identities",
    "default_far": 0.001,
    "threshold": 0.4665,
    "margin": 0.0476,
    "rates": [
        {
            "far": 0.001,
            "threshold": 0.4665,
            "threshold_interval": [0.5676, 0.5964],
            "far_interval": [0.00074, 0.0013],
            "tar": 0.303,
            "tar_interval": [0.274, 0.335],
            "dir": 0.61,
            "strangers": {"10": 0.0509, "100": 0.325, "799": 0.698},
            "identity_pairs": 6901,
        }
    ],
    "open_set": {"0.1": {"threshold": 0.7246, "dir": 0.197}},
    "roc": {"far": [0.001, 0.01], "tar": [0.303, 0.687], "tar_low": [0.274, 0.663], "tar_high": [0.335, 0.71]},
    "histogram": {"from": -1.0, "step": 1.0, "genuine": [12, 488], "impostor": [51_000, 49_000]},
    "cameras": [{"cameras": ["entrance", "yard"], "genuine_pairs": 250, "impostor_pairs": 50_000, "far": 0.0008, "tar": 0.29}],
    "warnings": [],
    "identities": 800,
    "crops": 6_400,
    "genuine_pairs": 500,
    "impostor_pairs": 100_000,
}
CALIBRATED: dict[str, Any] = {"applied": False, **CALIBRATION}
