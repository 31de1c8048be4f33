Feature: The handoff file
  engines/<replica>.json tells others where a ready engine is; it is there only while it is Ready.

  Scenario: It is there when the engine is ready, and true
    Given a pool "chat" with 3 slots
    When Corral runs
    Then there is no handoff file of "chat"
    When the pool "chat" is ready
    Then the handoff file of "chat" names its engine
    And the engine answers at the address of the handoff file of "chat"

  Scenario: It goes with the engine
    Given a pool "chat" with 1 slot
    When the pool "chat" is ready
    And "chat" is stopped
    Then there is no handoff file of "chat"

  Scenario: Another engine writes another one
    Given a pool "chat" with 1 slot
    When the pool "chat" is ready
    And the engine of "chat" is killed
    Then "chat" has another engine and is ready
    And the handoff file of "chat" names its engine
