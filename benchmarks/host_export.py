"""The host system's `scripts/export_token_estimation_telemetry.py`, as it has it.

Use: python -m benchmarks.host_export     (with DATABASE_URL)
"""

from __future__ import annotations

import json

from autopack.database import SessionLocal
from autopack.models import TokenEstimationV2Event


def main() -> None:
    """Load all, then print all."""
    session = SessionLocal()
    try:
        events = session.query(TokenEstimationV2Event).order_by(TokenEstimationV2Event.timestamp.desc()).all()

        print("# TokenEstimationV2 Telemetry Export")
        print(f"# Total events: {len(events)}")
        print()

        for event in events:
            deliverables = json.loads(event.deliverables_json)
            record = {
                "run_id": event.run_id,
                "phase_id": event.phase_id,
                "timestamp": event.timestamp.isoformat(),
                "category": event.category,
                "complexity": event.complexity,
                "deliverable_count": event.deliverable_count,
                "deliverables": deliverables,
                "predicted_output_tokens": event.predicted_output_tokens,
                "actual_output_tokens": event.actual_output_tokens,
                "selected_budget": event.selected_budget,
                "success": event.success,
                "truncated": event.truncated,
                "stop_reason": event.stop_reason,
                "model": event.model,
                "smape_percent": event.smape_percent,
                "waste_ratio": event.waste_ratio / 100.0 if event.waste_ratio else None,
                "underestimated": event.underestimated,
            }
            print(json.dumps(record))
    finally:
        session.close()


if __name__ == "__main__":
    main()
